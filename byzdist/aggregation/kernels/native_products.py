"""Inner products as one loop in C: four rows with four others at once, so that their sums stay in registers.

Each column is read from memory once for all pairs; a library's matrix product reads it twice and computes nearly twice as
much. A block of columns is summed in the data's own precision, and the blocks in float64, in an order that depends on neither
threads nor tiles. The results differ from a library's in the last digits, because a library's order of addition is unknown.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from byzdist.aggregation.kernels import native
from byzdist.aggregation.types import Floats
from byzdist.norms import BLOCK, add_in_order

Products: TypeAlias = Callable[[NDArray[np.int64], int | None, int, Floats], None]

MAX_ROWS = 128  # with more, a block leaves the cache before it is multiplied with all others
_PIECE = 8 * BLOCK  # columns that one thread sums
_LOOP = """
#include <stdint.h>
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define LANES ((int64_t)(BYTES / sizeof(real)))
#define TILE 4
typedef {type} real;
typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(real))));

static inline __attribute__((always_inline))
void add_tile(const real *const *a, const real *const *b, const real *from, int64_t columns, double sums[TILE][TILE]) {{
    vec products[TILE][TILE] = {{}};
    int64_t k = 0;
    for (; k + LANES <= columns; k += LANES) {{
        vec x[TILE];
        for (int i = 0; i < TILE; i++) x[i] = *(const vec *)(a[i] + k) - (from ? *(const vec *)(from + k) : (vec){{}});
        for (int j = 0; j < TILE; j++) {{
            const vec y = *(const vec *)(b[j] + k) - (from ? *(const vec *)(from + k) : (vec){{}});
            for (int i = 0; i < TILE; i++) products[i][j] += x[i] * y;
        }}
    }}
    for (int i = 0; i < TILE; i++) for (int j = 0; j < TILE; j++) {{
        for (int64_t l = 0; l < LANES; l++) sums[i][j] += products[i][j][l];
        for (int64_t l = k; l < columns; l++)
            sums[i][j] += (a[i][l] - (from ? from[l] : 0)) * (b[j][l] - (from ? from[l] : 0));
    }}
}}

/* A row whose entry in `moves` is 0, the origin, uses the same block of zeros throughout. */
static inline __attribute__((always_inline))
void add_block(const real *const *rows, const int64_t *moves, int64_t n, const real *from, int64_t start, int64_t width, double *out) {{
    for (int64_t p = 0; p < n; p += TILE) for (int64_t q = p; q < n; q += TILE) {{
        const real *a[TILE], *b[TILE];
        double sums[TILE][TILE] = {{}};
        for (int i = 0; i < TILE; i++) {{  /* beyond the last row, the last row is used again, and its products are dropped */
            const int64_t r = p + i < n ? p + i : n - 1, s = q + i < n ? q + i : n - 1;
            a[i] = rows[r] + moves[r] * start;
            b[i] = rows[s] + moves[s] * start;
        }}
        add_tile(a, b, from ? from + start : 0, width, sums);
        for (int i = 0; i < TILE && p + i < n; i++)
            for (int j = 0; j < TILE && q + j < n; j++) out[(p + i) * n + q + j] += sums[i][j];
    }}
}}

void loop(
    const real *const *rows, const int64_t *moves, int64_t n, const real *from, int64_t d, double *sums, int threads
) {{
#pragma omp parallel for num_threads(threads)
    for (int64_t p = 0; p < d; p += {piece}) {{
        double *const out = sums + p / {piece} * n * n;
        const int64_t stop = d - p < {piece} ? d : p + {piece};
        for (int64_t k = p; k < stop; k += {block}) {{
            const int64_t width = stop - k < {block} ? stop - k : {block};
            if (from) add_block(rows, moves, n, from, k, width, out);
            else add_block(rows, moves, n, 0, k, width, out);
        }}
    }}
}}
"""


@cache
def make_loop(dtype: torch.dtype) -> Products:
    """Return the function (rows, reference, d, total) that adds the rows' inner products to the upper half of ``total``.

    ``rows`` are the addresses of vectors of d values of ``dtype``; 0 stands for the origin. ``reference`` is the address of the
    vector from which they are measured; None stands for the origin.

    Raises:
        OSError, subprocess.SubprocessError: if there is no C compiler (CC, else cc), or it fails.
    """
    source = _LOOP.format(type=native.REALS[dtype][0], block=BLOCK, piece=_PIECE)
    loop = native.compile_source(source, "-ffp-contract=fast").loop
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    loop.argtypes = [pointer, pointer, whole, pointer, whole, pointer, ctypes.c_int]
    loop.restype = None
    origin = torch.zeros(BLOCK, dtype=dtype)

    def add(rows: NDArray[np.int64], reference: int | None, d: int, total: Floats) -> None:
        n, pieces, moves = len(rows), -(-d // _PIECE), np.sign(rows)
        starts = np.where(moves, rows, origin.data_ptr())
        sums = np.zeros((pieces, n, n))
        threads = native.threads(pieces, 1)
        loop(starts.ctypes.data, moves.ctypes.data, n, reference, d, sums.ctypes.data, threads)
        add_in_order(sums, total)

    return add
