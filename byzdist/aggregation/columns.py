"""The columns of a matrix, worked on row by row: each operation is one elementwise call on whole rows of a tile."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch

from byzdist.aggregation.networks import selection_network

Row: TypeAlias = (
    Any  # one row of a tile: a numpy array on the CPU, a torch tensor elsewhere; the operations below are the same
)

LARGEST_NETWORK = 64  # more rows than this are sorted: a network grows as n log^2 n and its rows leave the cache


class Columns:
    """m rows of a tile, and the rank and mean operations that column rules are made of.

    Rows given as read-only are never written to; ``spare`` rows (m + 3 are enough) are the workspace.
    """

    def __init__(self, rows: Sequence[Row], spare: Sequence[Row], *, writable: bool, lib: ModuleType = np) -> None:
        self.size = len(rows)
        self._rows, self._spare, self._lib = list(rows), list(spare), lib
        self._writable = [writable] * len(rows)

    def ranks(self, labels: tuple[int, ...]) -> list[Row]:
        """Return the rows, those with the ranks that ``labels`` ask for in place (see ``selection_network``)."""
        if self.size > LARGEST_NETWORK:
            return self._sorted(labels)
        rows, writable, spare, lib = self._rows, self._writable, self._spare, self._lib
        for low, high, keep_low, keep_high in selection_network(labels):
            a, b = rows[low], rows[high]
            free = [row for row, mine in ((a, writable[low]), (b, writable[high])) if mine]
            if keep_low and keep_high:
                rows[low] = spare.pop()
                lib.minimum(a, b, out=rows[low])
                rows[high] = free.pop() if free else spare.pop()
                lib.maximum(a, b, out=rows[high])
                writable[low] = writable[high] = True
            else:
                wire = low if keep_low else high
                rows[wire] = free.pop() if free else spare.pop()
                (lib.minimum if keep_low else lib.maximum)(a, b, out=rows[wire])
                writable[wire], writable[low + high - wire] = True, False
            spare += free
        return rows

    def mean(self, rows: Sequence[Row]) -> Row:
        """Return the mean of the rows, added in the order given; finite wherever they are."""
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
        if not finite.all():  # the sum left the range of the numbers; the mean does not
            scaled = sum(row * share for row in rows)
            total[~finite] = scaled[~finite]
        return total

    def nearest(self, rows: Sequence[Row], centre: Row) -> Row:
        """Return, in each column, the value nearest to the centre; rows ascend, and of two as near the lower counts."""
        lib, best = self._lib, rows[0]
        above, below = self._spare[-2:]
        for row in rows[1:]:
            lib.subtract(row, centre, out=above)
            lib.subtract(centre, best, out=below)
            nearer = above < below  # true where both are on one side and the row is nearer, too
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
    """Do what ``np.where`` does, by bits: its branches, which nobody can foretell, take twenty times as long."""
    whole = f"i{then.itemsize}"
    then, otherwise, differing = then.view(whole), otherwise.view(whole), scratch.view(whole)
    np.bitwise_xor(then, otherwise, out=differing)
    chosen = np.negative(condition.view(np.int8), out=np.empty_like(then))
    chosen &= differing
    chosen ^= otherwise
    return chosen.view(scratch.dtype)
