"""The n x d matrix that was received: read in tiles, never written to, and never copied as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzdist.aggregation import gram
from byzdist.aggregation.native_products import Products
from byzdist.aggregation.points import Matrix
from byzdist.aggregation.rules import Floats

Array: TypeAlias = Any  # a numpy array in the CPU's memory (its calls cost half of torch's), a torch tensor elsewhere

SHARE = 12  # a workspace takes at most one SHARE-th of the columns of the matrix
NARROWEST = 4096  # columns; below it a call costs more than its arithmetic
LITTLE = 1 << 17  # numbers; a workspace of so many is small whatever the matrix
MANY = 3  # rows that one is mixed of, from which a product of matrices takes less time
FEW = 1 << 16  # multiplications that plain loops do before a library call has begun


def as_array(tensor: Tensor) -> Array:
    """Return a CPU tensor as the numpy array of the same memory, any other as it is."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def as_tensor(array: Array) -> Tensor:
    """Return what ``as_array`` was given."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


class Workspace:
    """Named buffers that grow and are kept: fresh memory costs more than the arithmetic done in it."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], tuple[int, Array]] = {}

    def get(self, name: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Array:
        """Return a rows x columns array; what it held is overwritten."""
        stride = -(-columns // 16) * 16  # each row begins on a cache line: the bits of a product can hang on that
        key, size = (name, dtype, device), rows * stride
        room, buffer = self._buffers.get(key, (-1, None))
        if room < size:
            buffer = as_array(torch.empty(size, dtype=dtype, device=device))  # torch aligns to 64 bytes, numpy does not
            self._buffers[key] = (size, buffer)
        return buffer[:size].reshape(rows, stride)[:, :columns]


class Vectors:
    """The rows of V that take part, with what rules need of them: tiles, inner products, lengths, weighted sums.

    Args:
        V: n x d, any device, floating point; rows may be strided.
        workspace: where tiles live between calls.
        rows: the rows that take part; all of them by default.
        products: whether inner products will be asked for in any case, so that lengths need no pass of their own.
        loop: forms inner products of unchanged rows of V, where it was compiled.
    """

    def __init__(
        self,
        V: Tensor,
        workspace: Workspace,
        rows: list[int] | None = None,
        products: bool = False,
        loop: Products | None = None,
    ) -> None:
        V = V.detach()
        self.V, self.rows, self.workspace, self._products = V, rows, workspace, products
        self.n: int = V.shape[0] if rows is None else len(rows)
        self.d: int = V.shape[1]
        self.device = V.device
        self.dtype = torch.float64 if V.dtype == torch.float64 else torch.float32
        self.loop = loop
        plain = rows is None and V.dtype == self.dtype and (V.stride(1) == 1 or self.d == 1)
        self._array: Array | None = as_array(V) if plain else None
        self.lib: ModuleType = np if V.device.type == "cpu" else torch

    def width(self, largest: int, multiple: int = 16, buffers: int = 1) -> int:
        """Return how many columns a tile has, so that workspaces of n rows of them stay small beside V."""
        least = max(NARROWEST, min(largest, LITTLE // self.n))
        return max(multiple, max(least, min(largest, self.d // SHARE)) // (buffers * multiple) * multiple)

    @property
    def is_plain(self) -> bool:
        """Whether tiles are views of V, so that even the widest takes no memory."""
        return self._array is not None

    def tile(self, start: int, stop: int) -> Array:
        """Return columns start..stop of the rows, n x (stop - start), in the dtype of the computation; read-only."""
        if self._array is not None:
            return self._array[:, start:stop]
        tile = self.V[:, start:stop]
        return as_array((tile if self.rows is None else tile[self.rows]).to(self.dtype).contiguous())

    def number(self, row: int) -> int:
        """Return which row of V one of those that take part is."""
        return row if self.rows is None else self.rows[row]

    def kept(self, number: int) -> int | None:
        """Return which of the rows that take part is row ``number`` of V, or None where it takes no part."""
        rows = range(self.n) if self.rows is None else self.rows
        return rows.index(number) if number in rows else None

    def equal(self, i: int, j: int) -> bool:
        """Return whether two rows, not both of them the origin (n), are equal."""
        first, *other = [self.V[self.number(k)] for k in (i, j) if k < self.n]
        return torch.equal(first, other[0]) if other else not first.any()

    def sample(self, rows: NDArray[np.intp], pieces: int, columns: int) -> Tensor:
        """Return some ``pieces`` of adjacent columns of the rows, spread evenly over V."""
        size = min(columns, self.d)
        step = max(1, (self.d - size) // (pieces - 1))
        return self.V.unfold(1, size, step)[[self.number(i) for i in rows.tolist()]].flatten(1)

    def tiles(self, width: int) -> Iterator[tuple[int, int, Array]]:
        """Yield (start, stop, tile) from left to right."""
        for start in range(0, self.d, width):
            stop = min(start + width, self.d)
            yield start, stop, self.tile(start, stop)

    def buffer(self, name: str, rows: int, columns: int, dtype: torch.dtype | None = None) -> Array:
        """Return a rows x columns array of the workspace."""
        return self.workspace.get(name, rows, columns, dtype or self.dtype, self.device)

    @cached_property
    def _geometry(self) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        return gram.geometry(self)

    @property
    def gram(self) -> Floats:
        """Inner products (n+1) x (n+1) of the rows and, last, the origin, in a frame near the bulk of the rows."""
        return self._geometry[0]

    @property
    def squared_distances(self) -> Floats:
        """Squared distances (n+1) x (n+1) of the rows and, last, the origin."""
        return self._geometry[1]

    @cached_property
    def lengths(self) -> Floats:
        """Euclidean length of each row, n values."""
        return np.sqrt(self.squared_distances[-1, :-1]) if self._products else gram.lengths(self)

    def weighted_sum(self, weights: Floats, out: Tensor) -> Tensor:
        """Write the weighted sum of the rows to ``out``, d values, and return it."""
        if "_geometry" in self.__dict__ and not self._geometry[2].all():
            weights = np.where(self._geometry[2], 0.0, weights)  # no distance to them was known
        used = np.flatnonzero(weights)
        if len(used) == 1 and weights[used[0]] == 1.0:
            return out.copy_(self.V[self.number(used[0])])
        factors = torch.from_numpy(weights).to(self.device, self.dtype)
        # the bits of a product can hang on where its result begins
        direct = out.dtype == self.dtype and out.is_contiguous() and out.data_ptr() % 64 == 0
        for start, stop, tile in self.tiles(self.d if self.is_plain and direct else self.width(65536)):
            if direct:
                torch.mv(as_tensor(tile).T, factors, out=out[start:stop])
            else:
                out[start:stop] = torch.mv(as_tensor(tile).T, factors)
        return out

    def mixed(self, mix: Matrix, tile: Array) -> Array:
        """Return mix @ tile, m x columns, in the workspace.

        A product of matrices where rows mix many others: its bits hang on the numbers of columns and of threads only where
        there is a single row or column. Else row by row.
        """
        m, n = mix.shape
        if m * n * self.d <= FEW and self.lib is np:
            return np.einsum("ij,jk->ik", mix.astype(tile.dtype), tile)
        result = self.buffer("rows", m + 1, tile.shape[1])
        if m > 1 and isinstance(mix, np.ndarray) and np.count_nonzero(mix) > MANY * m:
            factors, there = torch.from_numpy(mix).to(self.device, self.dtype), as_tensor(result[:m])
            with gram.full_precision(self.device):
                if tile.shape[1] > 1:
                    torch.mm(factors, as_tensor(tile), out=there)
                else:
                    there.copy_(torch.mm(factors, as_tensor(tile).expand(-1, 2).contiguous())[:, :1])
            return result[:m]
        for i in range(m):
            row = mix[i] if isinstance(mix, np.ndarray) else mix[[i]].toarray()[0]
            used = np.flatnonzero(row)
            if len(used) > 2 and 4 * len(used) > n:
                factors = torch.from_numpy(row).to(self.device, self.dtype)
                torch.mv(as_tensor(tile).T, factors, out=as_tensor(result[i]))
                continue
            result[i] = 0.0
            for position, j in enumerate(used.tolist()):
                product = result[m] if position else result[i]
                self.lib.multiply(tile[j], float(row[j]), out=product)
                if position:
                    self.lib.add(result[i], product, out=result[i])
        return result[:m]
