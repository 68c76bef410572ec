"""Column rules as one loop in C: each column is read once, and all comparisons happen in registers.

The loop is generated from the rule itself, and gives the same bits as the numpy calls that it replaces. A minimum of finite
values is one instruction; numpy's, which handles NaN, takes three.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from byzdist.aggregation.columns import Columns, Row
from byzdist.aggregation.kernels import native
from byzdist.aggregation.kernels.networks import selection_network

# With these flags the compiler neither reorders sums nor fuses them with products. It may assume that values are finite, and
# may confuse -0 with 0: so the loop adds `zero`, whose value the compiler does not know, which turns both into 0.
_FLAGS = "-ffp-contract=off -ffinite-math-only -fno-signed-zeros -fno-trapping-math"
_NARROWEST = 1 << 15  # columns: the least for which a thread pays off
_LOOP = """
#include <stdint.h>
#include <string.h>
typedef {type} real;
typedef uint{bits}_t bits;

/* The exponent's bits plus one: the carry sets the sign bit if the value is NaN or infinite. Done with integers, because the
   compiler may assume that floating-point values are finite, and would remove a test of them. */
static const bits exponent = (bits){exponent}, one = (bits)1 << {mantissa};
static inline bits look(real value) {{
    bits seen;
    memcpy(&seen, &value, sizeof seen);
    return (seen & exponent) + one;
}}

/* A function of its own, because the compiler forgets `restrict` within a parallel loop. */
static __attribute__((noinline))
bits part(const real *restrict rows, int64_t stride, int64_t start, int64_t stop, real zero, real *restrict out) {{
    bits seen = 0;
    for (int64_t j = start; j < stop; j++) {{
{body}
        seen |= {seen};
        out[j] = {result} + zero;
    }}
    return seen;
}}

/* Returns whether all values are finite. */
int loop(const real *rows, int64_t stride, int64_t columns, real zero, real *out, int threads) {{
    bits seen = 0;
#pragma omp parallel for num_threads(threads) reduction(|: seen)
    for (int t = 0; t < threads; t++)
        seen |= part(rows, stride, columns * t / threads, columns * (t + 1) / threads, zero, out);
    return !(seen >> ({bits} - 1));
}}
"""


class WrittenColumns(Columns):
    """The operations of ``Columns`` as lines of C; a row is the name of a variable."""

    def __init__(self, n: int) -> None:
        super().__init__((), (), writable=False)
        self.size = n
        self.lines: list[str] = []
        self._rows = [self._let(f"rows[{i} * stride + j]") for i in range(n)]

    def _let(self, expression: str) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"        const real {name} = {expression};")
        return name

    def ranks(self, labels: tuple[int, ...]) -> list[Row]:
        """Return the rows with the ranks that ``labels`` ask for in their places (see ``selection_network``)."""
        rows = self._rows
        for low, high, keep_low, keep_high in selection_network(labels):
            a, b = rows[low], rows[high]
            if keep_low:
                rows[low] = self._let(f"{a} < {b} ? {a} : {b}")
            if keep_high:
                rows[high] = self._let(f"{a} < {b} ? {b} : {a}")
        return rows

    def mean(self, rows: Sequence[Row]) -> Row:
        """Return the mean of the rows, added in the order given; with more than two it may overflow, see `Compiler.run`."""
        if len(rows) == 1:
            return rows[0]
        share = f"(real){1.0 / len(rows)!r}"
        if len(rows) == 2:
            return self._let(f"{rows[0]} * {share} + {rows[1]} * {share}")
        return self._let(f"({' + '.join(rows)}) * {share}")

    def nearest(self, rows: Sequence[Row], centre: Row) -> Row:
        """Return, in each column, the value nearest to the centre, the lower one in a tie; the rows are in ascending order."""
        best = rows[0]
        for row in rows[1:]:
            best = self._let(f"{row} - {centre} < {centre} - {best} ? {row} : {best}")
        return best


def make_loop(
    rule: Callable[..., Row], n: int, f: int, parameters: dict[str, Any], dtype: torch.dtype
) -> Callable[[Tensor, Tensor], bool]:
    """Return the loop (rows [n x d], out [d]) of a column rule; both tensors are on the CPU, of ``dtype`` and unit stride.

    The loop returns whether all values are finite: checking a value costs next to nothing while it is in a register. If some
    value is not finite, the result is undefined.

    Raises:
        OSError, subprocess.SubprocessError: if there is no C compiler (CC, else cc), or it fails.
    """
    name, scalar = native.REALS[dtype]
    written = WrittenColumns(n)
    result = rule(written, f, **parameters)
    bits, mantissa = 8 * dtype.itemsize, {torch.float32: 23, torch.float64: 52}[dtype]
    source = _LOOP.format(
        type=name,
        bits=bits,
        mantissa=mantissa,
        exponent=hex((1 << bits - 1) - (1 << mantissa)),
        seen=" | ".join(f"look(v{i})" for i in range(n)),
        body="\n".join(written.lines),
        result=result,
    )
    loop = native.compile_source(source, _FLAGS).loop
    loop.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, scalar, ctypes.c_void_p, ctypes.c_int]
    loop.restype = ctypes.c_int

    def run(rows: Tensor, out: Tensor) -> bool:
        threads = native.threads(rows.shape[1], _NARROWEST)
        return bool(loop(rows.data_ptr(), rows.stride(0), rows.shape[1], 0.0, out.data_ptr(), threads))

    return run
