"""The norms of long vectors: sums of squares, formed block by block in an order that depends only on the number of entries.

Within a block the two halves are added, then the halves of the result, and so on, in the data's own precision; the blocks are
added up in float64. A library's own norm adds in an order that depends on threads and on the processor.
"""

import math
import sys
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 1024  # values that are summed in the data's precision; fixed, so that the bits depend on no tile size
SAFE = (1e-24, 1e30)  # sums of squares of float32 within these limits neither overflow nor vanish
_SAFE64 = (1e-280, 1e280)  # the same of float64
_SHORT = 1 << 17  # values; a vector with fewer is converted to float64 and added by one call
_MANY = 1 << 11  # numbers; from here on one call that adds them takes less time than a copy of them
_LANES = 16  # sums of a block that are left when blocks are laid side by side, each call then being long

Floats = NDArray[np.float64]
Squares = Callable[[Tensor], Floats]


def norm(vector: Tensor) -> float:
    """Return the Euclidean norm of a vector of d finite values, right to the last digit or two of its dtype."""
    if vector.is_cuda:
        return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
    squared = _squared(vector)
    if _SAFE64[0] <= squared <= _SAFE64[1]:
        return math.sqrt(squared)
    largest = float(vector.abs().max()) if len(vector) else 0.0
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    exponent = math.frexp(largest)[1]
    scaled = np.ldexp(vector.detach().double().numpy(), -exponent)
    mantissa, more = math.frexp(math.sqrt(_squared(torch.from_numpy(scaled))))
    return math.ldexp(mantissa, more + exponent) if more + exponent <= 1024 else sys.float_info.max


def _squared(vector: Tensor) -> float:
    if len(vector) <= _SHORT:
        short = vector.detach().double().numpy()
        return float(np.einsum("i,i->", short, short))
    total = np.zeros(1)
    for start in range(0, len(vector), _SHORT):
        add_squares(vector.detach()[None, start : start + _SHORT].double(), total)
    return float(total[0])


def add_squares(rows: Tensor, total: Floats, squares: Squares | None = None) -> None:
    """Add the sum of squares of each row [n x columns] to ``total`` [n].

    ``squares`` computes the sums of the blocks, n x blocks, to the same bits as `block_squares`.
    """
    if rows.is_cuda:
        _add_squares_there(rows, total)
        return
    step = BLOCK * max(1, _SHORT // (BLOCK * len(rows)))
    for start in range(0, rows.shape[1], rows.shape[1] if squares else step):
        part = rows[:, start:] if squares else rows[:, start : start + step]
        of_blocks = squares(part) if squares else block_squares(part.numpy())
        doubtful = ~((of_blocks >= SAFE[0]) & (of_blocks <= SAFE[1]))
        if rows.dtype != torch.float64 and doubtful.any():
            for i in np.flatnonzero(doubtful.any(axis=1)):
                for first in range(0, part.shape[1], _SHORT):
                    finer = block_squares(part[i : i + 1, first : first + _SHORT].double().numpy())
                    these = slice(first // BLOCK, first // BLOCK + finer.shape[1])
                    of_blocks[i, these] = np.where(doubtful[i, these], finer, of_blocks[i, these])
        add_in_order(of_blocks.T, total)


@np.errstate(over="ignore", under="ignore")  # a sum that float32 cannot hold is computed again in float64
def block_squares(rows: NDArray[np.floating]) -> Floats:
    """Return the sum of squares of each block of the rows [n x columns], n x blocks; the last block may be short."""
    n, columns = rows.shape
    blocks = -(-columns // BLOCK)
    if columns < blocks * BLOCK:
        whole = np.zeros((n, blocks * BLOCK), dtype=rows.dtype)
        whole[:, :columns] = rows
        rows = whole
    parts, width = rows.reshape(n, blocks, BLOCK), BLOCK // 2
    sums = np.square(parts[..., :width])
    sums += np.square(parts[..., width:])
    while width > _LANES:
        width //= 2
        sums = np.add(sums[..., :width], sums[..., width : 2 * width], out=sums[..., :width])
    lanes = np.ascontiguousarray(np.moveaxis(sums, -1, 0))
    while width > 1:
        width //= 2
        lanes = np.add(lanes[:width], lanes[width : 2 * width], out=lanes[:width])
    of_blocks: Floats = lanes[0].astype(np.float64)
    return of_blocks


def _add_squares_there(rows: Tensor, total: Floats) -> None:
    """Do the same on a GPU, where no number of threads changes the order."""
    whole = rows.shape[1] // BLOCK * BLOCK
    for part in (rows[:, :whole].view(len(rows), -1, BLOCK), rows[:, None, whole:]):
        if part.numel():
            squares = torch.linalg.vector_norm(part, dim=2).double().square()
            doubtful = ~((squares >= SAFE[0]) & (squares <= SAFE[1]))
            if doubtful.any():
                squares[doubtful] = torch.linalg.vector_norm(part[doubtful], dim=1, dtype=torch.float64).square()
            add_in_order(squares.T.cpu().numpy(), total)


def add_in_order(addends: NDArray[np.floating], total: Floats) -> None:
    """Add the entries [k x ...] to ``total`` [...] one after the other, so that the bits do not depend on the division into calls."""
    if total.size > _MANY:
        for addend in addends:
            total += addend
        return
    # One call instead of one for each. The spare column keeps the entries from being the only axis, and so the fast one,
    # along which numpy would add pairwise.
    together = np.zeros((1 + len(addends), total.size + 1))
    together[0, :-1], together[1:, :-1] = total.ravel(), addends.reshape(len(addends), -1)
    total[...] = np.add.reduce(together, axis=0)[:-1].reshape(total.shape)
