"""Operations on the columns of a matrix: each is an elementwise call on whole rows of a tile."""

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from byzdist.aggregation.kernels.networks import selection_network

Row: TypeAlias = Any
"""One row of a tile: a numpy array on the CPU, a torch tensor elsewhere; both have the operations used below."""

LARGEST_NETWORK = 64  # rows; more are sorted, because a network grows as n log^2 n and its rows leave the cache


class _Plan(NamedTuple):
    """The calls that sort rows by rank. They work on slots: first those of the rows, then the spare ones.

    Attributes:
        steps: (whether to take the smaller of two slots or the larger, the two slots, the slot for the result).
        rows: the slot of each rank.
        spare: the slots that are free afterwards.
    """

    steps: list[tuple[bool, int, int, int]]
    rows: list[int]
    spare: list[int]


@lru_cache(maxsize=256)
def _plan(labels: tuple[int, ...], writable: bool, spares: int) -> _Plan:
    """Assign slots to the exchanges of `selection_network`; done once and kept, because all tiles use the same plan."""
    n = len(labels)
    rows, mine, spare, steps = list(range(n)), [writable] * n, list(range(n, n + spares)), []
    for low, high, keep_low, keep_high in selection_network(labels):
        a, b = rows[low], rows[high]
        free = [row for row, own in ((a, mine[low]), (b, mine[high])) if own]
        mine[low], mine[high] = keep_low, keep_high
        if keep_low:  # if both are kept, a and b are still needed for the larger one
            rows[low] = spare.pop() if keep_high or not free else free.pop()
            steps.append((True, a, b, rows[low]))
        if keep_high:
            rows[high] = free.pop() if free else spare.pop()
            steps.append((False, a, b, rows[high]))
        spare += free
    return _Plan(steps, rows, spare)


class Columns:
    """m rows of a tile, and the rank and mean operations from which column rules are built.

    Unless the rows are ``writable``, they are never written to; the ``spare`` rows (m + 3 are enough) are scratch memory.
    """

    def __init__(self, rows: Sequence[Row], spare: Sequence[Row], *, writable: bool, lib: ModuleType = np) -> None:
        self.size = len(rows)
        self._rows, self._spare, self._lib = list(rows), list(spare), lib
        self._writable = writable

    def ranks(self, labels: tuple[int, ...]) -> list[Row]:
        """Return the rows with the ranks that ``labels`` ask for in their places (see ``selection_network``)."""
        if self.size > LARGEST_NETWORK:
            return self._sorted(labels)
        plan = _plan(labels, self._writable, len(self._spare))
        slots, minimum, maximum = self._rows + self._spare, self._lib.minimum, self._lib.maximum
        for smaller, a, b, out in plan.steps:
            (minimum if smaller else maximum)(slots[a], slots[b], out=slots[out])
        self._rows, self._spare = [slots[i] for i in plan.rows], [slots[i] for i in plan.spare]
        return self._rows

    def mean(self, rows: Sequence[Row]) -> Row:
        """Return the mean of the rows, added in the order given; it is finite wherever the rows are."""
        lib, share = self._lib, 1.0 / len(rows)
        if len(rows) == 1:
            return rows[0]
        total = self._spare.pop()
        if len(rows) == 2:
            lib.multiply(rows[0], share, out=total)
            return lib.add(total, rows[1] * share, out=total)
        lib.add(rows[0], rows[1], out=total)
        for row in rows[2:]:
            lib.add(total, row, out=total)
        lib.multiply(total, share, out=total)
        finite = lib.isfinite(total)
        if not finite.all():  # the sum overflowed, but the mean cannot
            scaled = sum(row * share for row in rows)
            total[~finite] = scaled[~finite]
        return total

    def nearest(self, rows: Sequence[Row], centre: Row) -> Row:
        """Return, in each column, the value nearest to the centre, the lower one in a tie; the rows are in ascending order."""
        lib, best = self._lib, rows[0]
        above, below = self._spare[-2:]
        for row in rows[1:]:
            lib.subtract(row, centre, out=above)
            lib.subtract(centre, best, out=below)
            nearer = above < below  # also correct if both values are on the same side of the centre
            best = torch.where(nearer, row, best) if lib is torch else _choose(nearer, row, best, scratch=above)
        return best

    def _sorted(self, labels: tuple[int, ...]) -> list[Row]:
        if self._lib is torch:
            return list(torch.stack(self._rows).sort(0).values)
        block = np.stack(self._rows, axis=1)
        cuts = [k for k in range(1, self.size) if labels[k] != labels[k - 1]]
        ordered = np.partition(block, cuts, axis=1) if len(cuts) <= 3 else np.sort(block, axis=1)
        return list(np.ascontiguousarray(ordered.T))


def _choose(condition: Row, then: Row, otherwise: Row, scratch: Row) -> Row:
    """Do what ``np.where`` does, by bit operations: its branches are unpredictable, and meamed takes 4 to 20 % longer with them."""
    whole = f"i{then.itemsize}"
    then, otherwise, differing = then.view(whole), otherwise.view(whole), scratch.view(whole)
    np.bitwise_xor(then, otherwise, out=differing)
    chosen = np.negative(condition.view(np.int8), out=np.empty_like(then))
    chosen &= differing
    chosen ^= otherwise
    return chosen.view(scratch.dtype)
