"""The n x d matrix that was received: read in tiles, never written to, and never copied as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from byzdist.aggregation import gram
from byzdist.aggregation.points import Matrix
from byzdist.aggregation.rules import Floats

SHARE = 12  # a workspace takes at most one SHARE-th of the columns of the matrix
NARROWEST = 4096  # columns; below it a call costs more than its arithmetic


class Workspace:
    """Named buffers that grow and are kept: fresh memory costs more than the arithmetic done in it."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def get(self, name: str, rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a rows x columns tensor on the device of ``like``; what it held is overwritten."""
        key, size = (name, dtype, like.device), rows * columns
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.empty(size, dtype=dtype, device=like.device)
        return self._buffers[key][:size].view(rows, columns)


class Vectors:
    """The rows of V that take part, with what rules need of them: tiles, inner products, lengths, weighted sums.

    Args:
        V: n x d, any device, floating point; rows may be strided.
        workspace: where tiles live between calls.
        rows: the rows that take part; all of them by default.
    """

    def __init__(self, V: Tensor, workspace: Workspace, rows: list[int] | None = None) -> None:
        self.V, self.rows, self.workspace = V, rows, workspace
        self.n: int = V.shape[0] if rows is None else len(rows)
        self.d: int = V.shape[1]
        self.dtype = torch.float64 if V.dtype == torch.float64 else torch.float32
        self.plain = rows is None and V.dtype == self.dtype and V.stride(1) == 1

    def width(self, largest: int, multiple: int = 16) -> int:
        """Return how many columns a tile has, so that a workspace of n rows of them stays small beside V."""
        return max(NARROWEST, min(largest, self.d // SHARE)) // multiple * multiple

    def tile(self, start: int, stop: int, into: Tensor | None = None) -> Tensor:
        """Return columns start..stop of the rows, n x (stop - start), in the dtype of the computation; read-only."""
        tile = self.V[:, start:stop]
        if self.rows is not None:
            tile = tile[self.rows]
        if into is not None:
            return into.copy_(tile)
        return tile if self.plain else tile.to(self.dtype).contiguous()

    def tiles(self, width: int) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (start, stop, tile) from left to right."""
        for start in range(0, self.d, width):
            stop = min(start + width, self.d)
            yield start, stop, self.tile(start, stop)

    @cached_property
    def _geometry(self) -> tuple[Floats, Floats]:
        return gram.geometry(self)

    @property
    def gram(self) -> Floats:
        """Inner products (n+1) x (n+1) of the rows and, last, the origin, relative to a point near the bulk of the rows."""
        return self._geometry[0]

    @property
    def squared_distances(self) -> Floats:
        """Squared distances (n+1) x (n+1) of the rows and, last, the origin."""
        return self._geometry[1]

    @cached_property
    def _lengths(self) -> Floats:
        if "_geometry" in self.__dict__:
            return np.sqrt(self.squared_distances[-1, :-1])
        return gram.lengths(self)

    def norms(self) -> Floats:
        """Return the Euclidean length of each row, n values."""
        return self._lengths

    def weighted_sum(self, weights: Floats, out: Tensor) -> Tensor:
        """Write the weighted sum of the rows to ``out``, d values, and return it."""
        used = np.flatnonzero(weights)
        if len(used) == 1 and weights[used[0]] == 1.0:
            return out.copy_(self.V[used[0] if self.rows is None else self.rows[used[0]]])
        factors = torch.from_numpy(weights).to(self.V.device, self.dtype)
        for start, stop, tile in self.tiles(self.d if self.plain else self.width(65536)):
            if out.dtype == self.dtype and out.is_contiguous():
                torch.mv(tile.T, factors, out=out[start:stop])
            else:
                out[start:stop] = torch.mv(tile.T, factors)
        return out

    def mixed(self, mix: Matrix, tile: Tensor, into: Tensor) -> Tensor:
        """Write mix @ tile to ``into``, m x columns, and return it.

        Row by row, because the bits of a matrix product depend on its shape and on the number of threads; those of its rows do not.
        """
        mix = mix.toarray() if tile.shape[0] < 2 and hasattr(mix, "toarray") else mix
        for i in range(mix.shape[0]):
            row = mix[[i]].toarray()[0] if hasattr(mix, "toarray") else mix[i]
            used = np.flatnonzero(row)
            if 4 * len(used) <= len(row) or len(used) <= 2:
                into[i].zero_() if not len(used) else torch.mul(tile[used[0]], row[used[0]], out=into[i])
                for j in used[1:]:
                    into[i].add_(tile[j], alpha=float(row[j]))
            else:
                torch.mv(tile.T, torch.from_numpy(row).to(tile.device, tile.dtype), out=into[i])
        return into
