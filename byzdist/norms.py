"""The lengths of long vectors: in blocks of the data's own precision, whose squares are added up in float64, block by block."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 1024  # values that are summed in the data's precision; fixed, so that the bits depend on no tile size
SAFE = (1e-24, 1e30)  # sums of squares of float32 within these limits neither overflow nor vanish
_SHORT = 1 << 17  # values; torch sums the squares of so few in float64 in no time
_MANY = 1 << 11  # numbers; so many are added by a call of their own, which then takes less time than a copy of them

Floats = NDArray[np.float64]


def norm(vector: Tensor) -> float:
    """Return the Euclidean length of a vector of d values, right to the last digit or two of its dtype."""
    if len(vector) <= _SHORT:
        return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
    total = np.zeros(1)
    add_squares(vector[None], total)
    return float(np.sqrt(total[0]))


def add_squares(rows: Tensor, total: Floats) -> None:
    """Add the sum of squares of each row [n x columns] to ``total`` [n]."""
    whole = rows.shape[1] // BLOCK * BLOCK
    for part in (rows[:, :whole].view(len(rows), -1, BLOCK), rows[:, None, whole:]):
        if part.numel():
            squares = torch.linalg.vector_norm(part, dim=2).double().square()
            doubtful = ~((squares >= SAFE[0]) & (squares <= SAFE[1]))
            if doubtful.any():
                squares[doubtful] = torch.linalg.vector_norm(part[doubtful], dim=1, dtype=torch.float64).square()
            add_in_order(squares.T.cpu().numpy(), total)


def add_in_order(addends: NDArray[np.floating], total: Floats) -> None:
    """Add the entries [k x ...] to ``total`` [...] one after the other, so that the bits depend on no division into calls."""
    if total.size > _MANY:
        for addend in addends:
            total += addend
        return
    # One call instead of one for each. The spare column keeps the entries from being the only axis, and so the fast one,
    # along which numpy would add pairwise.
    together = np.zeros((1 + len(addends), total.size + 1))
    together[0, :-1], together[1:, :-1] = total.ravel(), addends.reshape(len(addends), -1)
    total[...] = np.add.reduce(together, axis=0)[:-1].reshape(total.shape)
