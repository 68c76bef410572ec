"""Weighted sums of rows and sums of their squares as loops in C, with the same bits as without a compiler.

Each product is rounded before it is added, in a fixed order: rows one after the other, squares by halves (see
``byzdist.norms``). So the result depends on neither threads nor the width of a register.
"""

import ctypes
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzdist.aggregation.kernels import native
from byzdist.aggregation.types import Floats
from byzdist.norms import BLOCK

_STRIP = 256  # columns at a time: every sum reads these columns of all rows, so they stay in the cache
# Columns and rows at a time for a single sum: with more rows at once, a processor no longer prefetches.
_LONG_STRIP, _GROUP = 4096, 6
_NARROWEST = 1 << 14  # columns: the least for which a thread pays off
_LOOP = """
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define LANES ((int64_t)(BYTES / sizeof(real)))
#define WIDE 4
typedef {type} real;
typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(real))));

/* Write the sum of weights[k] * rows[of[k]], first <= k < last, to out for columns start to stop, `group` rows at a time. */
static inline __attribute__((always_inline))
void add_rows(
    const real *rows, int64_t stride, const int64_t *of, const real *weights, int64_t first, int64_t last,
    int64_t start, int64_t stop, int64_t group, real *out
) {{
    if (first == last) memset(out + start, 0, (stop - start) * sizeof(real));
    for (int64_t from = first; from < last; from += group) {{
        const int64_t to = last - from < group ? last : from + group;
        int64_t c = start;
        for (; c + WIDE * LANES <= stop; c += WIDE * LANES) {{
            vec sums[WIDE] = {{}}, *target = (vec *)(out + c);
            if (from > first) for (int w = 0; w < WIDE; w++) sums[w] = target[w];
            for (int64_t k = from; k < to; k++) {{
                const vec *row = (const vec *)(rows + of[k] * stride + c);
                for (int w = 0; w < WIDE; w++) sums[w] += weights[k] * row[w];
            }}
            for (int w = 0; w < WIDE; w++) target[w] = sums[w];
        }}
        for (; c < stop; c++) {{
            real sum = from > first ? out[c] : 0;
            for (int64_t k = from; k < to; k++) sum += weights[k] * rows[of[k] * stride + c];
            out[c] = sum;
        }}
    }}
}}

void mix(
    const real *rows, int64_t stride, int64_t columns, const int64_t *begins, const int64_t *of, const real *weights,
    int64_t m, real *out, int64_t out_stride, int threads
) {{
    const int64_t strip = m > 1 ? {strip} : {long_strip}, group = m > 1 ? INT64_MAX / 2 : {group};
#pragma omp parallel for num_threads(threads)
    for (int64_t start = 0; start < columns; start += strip) {{
        const int64_t stop = columns - start < strip ? columns : start + strip;
        for (int64_t i = 0; i < m; i++)
            add_rows(rows, stride, of, weights, begins[i], begins[i + 1], start, stop, group, out + i * out_stride);
    }}
}}

static real by_halves(const real *x, int64_t columns) {{
    real whole[{block}], sums[{block} / 2];
    if (columns < {block}) {{
        memset(whole, 0, sizeof whole);
        memcpy(whole, x, columns * sizeof(real));
        x = whole;
    }}
    for (int i = 0; i < {block} / 2; i++) sums[i] = x[i] * x[i] + x[i + {block} / 2] * x[i + {block} / 2];
    for (int width = {block} / 4; width > 0; width /= 2)
        for (int i = 0; i < width; i++) sums[i] += sums[i + width];
    return sums[0];
}}

void squares(const real *rows, int64_t stride, int64_t n, int64_t columns, double *out, int threads) {{
    const int64_t blocks = (columns + {block} - 1) / {block};
#pragma omp parallel for num_threads(threads)
    for (int64_t k = 0; k < n * blocks; k++) {{
        const int64_t start = k % blocks * {block}, left = columns - start;
        out[k] = by_halves(rows + k / blocks * stride + start, left < {block} ? left : {block});
    }}
}}
"""


class Sums:
    """The two loops for one dtype; tensors are on the CPU, and their rows have unit stride.

    Raises:
        OSError, subprocess.SubprocessError: if there is no C compiler (CC, else cc), or it fails.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        source = _LOOP.format(
            type=native.REALS[dtype][0], strip=_STRIP, long_strip=_LONG_STRIP, group=_GROUP, block=BLOCK
        )
        library = native.compile_source(source, "-ffp-contract=off")
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        self._mix, self._squares = library.mix, library.squares
        self._mix.argtypes = [pointer, whole, whole, pointer, pointer, pointer, whole, pointer, whole, ctypes.c_int]
        self._squares.argtypes = [pointer, whole, whole, whole, pointer, ctypes.c_int]
        self._mix.restype = self._squares.restype = None

    def mix(
        self, begins: NDArray[np.int64], of: NDArray[np.int64], weights: NDArray[np.floating], rows: Tensor, out: Tensor
    ) -> None:
        """Write the sum of weights[k] * rows[of[k]] for k from begins[i] to begins[i + 1] - 1, in that order, to out[i]."""
        columns = rows.shape[1]
        threads = native.threads(columns, _NARROWEST)
        matrix = (begins.ctypes.data, of.ctypes.data, weights.ctypes.data)
        target = (out.data_ptr(), out.stride(0), threads)
        self._mix(rows.data_ptr(), rows.stride(0), columns, *matrix, len(out), *target)

    def squares(self, rows: Tensor) -> Floats:
        """Return the sum of squares of each block of the rows, n x blocks, as ``block_squares`` does."""
        n, columns = rows.shape
        out = np.empty((n, -(-columns // BLOCK)))
        threads = native.threads(rows.numel(), 4 * _NARROWEST)
        self._squares(rows.data_ptr(), rows.stride(0), n, columns, out.ctypes.data, threads)
        return out


@cache
def make_sums(dtype: torch.dtype) -> Sums:
    """Return the loops for a dtype, compiled at the first call."""
    return Sums(dtype)
