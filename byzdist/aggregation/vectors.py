"""The received n x d matrix: read in tiles, never written to, and never copied as a whole.

Sums over rows are added row by row, and each product is rounded before it is added. So their bits are the same in compiled C
and in numpy, and depend on neither threads nor tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzdist.aggregation.kernels.compiled import NO_LOOPS, Loops
from byzdist.aggregation.types import Floats, Matrix

Array: TypeAlias = Any  # a numpy array on the CPU (numpy's calls cost half of torch's), a torch tensor elsewhere

SHARE = 12  # a workspace has at most 1/SHARE of the matrix's columns
NARROWEST = 4096  # columns; with fewer, a call costs more than its arithmetic
LITTLE = 1 << 17  # numbers; a workspace of this many is small whatever the size of the matrix
LITTLE_THERE = 1 << 24  # the same on a GPU, where each call takes microseconds, however few numbers it gets
FEW = 1 << 16  # multiplications; up to this many, one numpy call does them all, with memory for all products
MANY = 3  # rows in one mix on a GPU; with more, a matrix product takes less time
USUAL = 300  # binary exponents; sizes between 2^-300 and 2^300 keep their unit
LIGHT, LIFT = 1e-30, 120  # weights below LIGHT lose digits in float32; they are multiplied by 2^LIFT
MAX_EXPONENT = 400  # binary; a row that is more than 2^400 times as large as the typical one is scaled down to that


def as_array(tensor: Tensor) -> Array:
    """Return a CPU tensor as a numpy array that shares its memory, any other tensor unchanged."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def as_tensor(array: Array) -> Tensor:
    """Return the tensor that ``as_array`` was given."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply float32 in full precision on a GPU: TF32, which a user may have allowed, keeps three digits."""
    if device.type != "cuda":
        yield
        return
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


class NonfiniteRows(Exception):
    """Some rows hold NaN or infinity; ``rows`` are their numbers."""

    def __init__(self, rows: tuple[int, ...]) -> None:
        super().__init__(rows)
        self.rows = rows


def nonfinite_rows(V: Tensor) -> tuple[int, ...]:
    """Return the rows of V (n x d) with NaN or infinity: only a row whose sum is not finite is examined value by value."""
    sums = V.sum(dim=1).tolist()
    return tuple(i for i, total in enumerate(sums) if not math.isfinite(total) and not torch.isfinite(V[i]).all())


class Workspace:
    """Named buffers that grow and are reused: page faults of fresh memory cost more than the arithmetic done in it."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], tuple[int, Array]] = {}

    def bytes(self) -> int:
        """Return how much memory the buffers take."""
        return sum(buffer.nbytes for _, buffer in self._buffers.values())

    def shrink(self, max_bytes: int) -> None:
        """Forget buffers, the largest first, until the others take at most ``max_bytes``."""
        for key, (_, buffer) in sorted(self._buffers.items(), key=lambda item: -item[1][1].nbytes):
            if self.bytes() <= max_bytes:
                break
            del self._buffers[key], buffer

    def get(self, name: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Array:
        """Return a rows x columns array, whose old content the caller overwrites."""
        stride = -(-columns // 16) * 16  # each row begins on a cache line: a library's bits can depend on alignment
        key, size = (name, dtype, device), rows * stride
        room, buffer = self._buffers.get(key, (-1, None))
        if room < size:
            buffer = as_array(torch.empty(size, dtype=dtype, device=device))  # torch aligns to 64 bytes, numpy does not
            self._buffers[key] = (size, buffer)
        return buffer[:size].reshape(rows, stride)[:, :columns]


class Vectors:
    """The rows of V that take part, read in tiles, and their weighted sums.

    Args:
        V: n x d, any device, floating point; rows may be strided.
        workspace: the buffers for tiles and sums.
        rows: the rows that take part; all of them by default.
        loops: the compiled loops for sums, if there are any.
        finite: whether all numbers are known to be finite.

    Attributes:
        finite: the same; also set by any pass over the rows that would have noticed NaN or infinity.
        unit: the power of two that turns these rows into those of V. It is 1, except for numbers whose squares float64 cannot
            hold (`Geometry` then calls ``tame`` after its first measurement).
    """

    def __init__(
        self,
        V: Tensor,
        workspace: Workspace,
        rows: list[int] | None = None,
        loops: Loops = NO_LOOPS,
        finite: bool = True,
    ) -> None:
        V = V.detach()
        self.V, self.rows, self.workspace = V, rows, workspace
        self.n: int = V.shape[0] if rows is None else len(rows)
        self.d: int = V.shape[1]
        self.device = V.device
        self.dtype = torch.float64 if V.dtype == torch.float64 else torch.float32
        self.loops, self.unit, self.finite = loops, 1.0, finite
        self._scale: Tensor | None = None  # a power of two for each row
        self._tamed = self.dtype != torch.float64
        plain = rows is None and V.dtype == self.dtype and (V.stride(1) == 1 or self.d == 1)
        self._array: Array | None = as_array(V) if plain else None
        self.lib: ModuleType = np if V.device.type == "cpu" else torch

    def check(self) -> None:
        """Check that all numbers are finite, by a pass over them unless that is known already.

        Raises:
            NonfiniteRows: if some are not.
        """
        if not self.finite:
            if found := nonfinite_rows(self.V):
                raise NonfiniteRows(found)
            self.finite = True

    def witness(self, measured: Floats) -> None:
        """Use a measured norm of each row: if all norms are finite, all numbers are; else check the numbers.

        Raises:
            NonfiniteRows: if some are not.
        """
        self.finite = self.finite or bool(np.isfinite(measured).all())
        self.check()

    def width(self, largest: int, multiple: int = 16, buffers: int = 1) -> int:
        """Return the number of columns of a tile, such that workspaces of n rows stay small beside V.

        Args:
            largest: the most that a CPU's cache holds; on a GPU the number of calls matters more.
            multiple: of which the width is one.
            buffers: how many workspaces of this width there are.
        """
        little = LITTLE
        if self.lib is torch:
            largest, little = max(self.d, multiple), LITTLE_THERE
        least = max(NARROWEST, min(largest, little // self.n))
        return max(multiple, max(least, min(largest, self.d // SHARE)) // (buffers * multiple) * multiple)

    @property
    def is_plain(self) -> bool:
        """Whether tiles are views of V, so that a tile of any width takes no memory."""
        return self._array is not None

    def tile(self, start: int, stop: int) -> Array:
        """Return columns start..stop of the rows, n x (stop - start), in the dtype of the computation; read-only."""
        if self._array is not None:
            return self._array[:, start:stop]
        tile = self.V[:, start:stop]
        tile = tile if self.rows is None else tile[self.rows]
        return as_array((tile.to(self.dtype) if self._scale is None else tile * self._scale).contiguous())

    def number(self, row: int) -> int:
        """Return the number in V of a row that takes part."""
        return row if self.rows is None else self.rows[row]

    def kept(self, number: int) -> int | None:
        """Return the position of V's row ``number`` among the rows that take part, or None if it does not take part."""
        rows = range(self.n) if self.rows is None else self.rows
        return rows.index(number) if number in rows else None

    def equal(self, i: int, j: int) -> bool:
        """Return whether two rows that take part are equal; one of them may be n, the origin."""
        first, *other = [self.V[self.number(k)] for k in (i, j) if k < self.n]
        return torch.equal(first, other[0]) if other else not first.any()

    def sample(self, rows: NDArray[np.intp], pieces: int, columns: int) -> Tensor:
        """Return about ``pieces`` pieces of ``columns`` adjacent columns of the rows, spread evenly over V."""
        size = min(columns, self.d)
        step = max(1, (self.d - size) // (pieces - 1))
        sample = self.V.unfold(1, size, step)[[self.number(i) for i in rows.tolist()]].flatten(1).double()
        return sample if self._scale is None else sample * self._scale[rows]

    def tiles(self, width: int) -> Iterator[tuple[int, int, Array]]:
        """Yield (start, stop, tile) from left to right."""
        for start in range(0, self.d, width):
            stop = min(start + width, self.d)
            yield start, stop, self.tile(start, stop)

    def buffer(self, name: str, rows: int, columns: int, dtype: torch.dtype | None = None) -> Array:
        """Return a rows x columns array of the workspace."""
        return self.workspace.get(name, rows, columns, dtype or self.dtype, self.device)

    def tame(self) -> bool:
        """Change to a unit in which squares keep their digits, if that is needed; return whether anything changed.

        Unless it has a usual size, the median of the rows' largest entries, which a minority cannot choose, becomes about 1.
        A row that is more than 2^400 times as large is scaled down to that, which is still far away. All factors are powers of
        two, so nothing is rounded. This happens once, before the first measurement is returned to anyone.
        """
        if self._tamed:
            return False
        self._tamed = True
        largest = np.zeros(self.n)
        for _, _, tile in self.tiles(self.width(65536)):
            there = torch.as_tensor(tile)
            largest = np.maximum(largest, torch.maximum(there.amax(1), -there.amin(1)).cpu().numpy())
        exponents = np.frexp(largest)[1]
        typical = int(np.sort(exponents)[self.n // 2]) if np.sort(largest)[self.n // 2] else 0
        shift = 0 if abs(typical) <= USUAL else max(-1000, min(1000, -typical))
        shifts = np.where(largest > 0, np.minimum(shift, MAX_EXPONENT - exponents), shift)
        if not shifts.any():
            return False
        self._scale = torch.from_numpy(np.ldexp(1.0, shifts)[:, None]).to(self.device)
        self.unit, self._array = 2.0**-shift, None
        return True

    def weighted_sum(self, weights: Floats, out: Tensor) -> Tensor:
        """Write the weighted sum of the rows to ``out``, d values, and return it; the weights sum to at most one."""
        used = np.flatnonzero(weights)
        if len(used) == 1 and weights[used[0]] == 1.0 and self._scale is None:
            return out.copy_(self.V[self.number(used[0])])
        direct, mix = out.dtype == self.dtype and out.is_contiguous(), weights[None]
        in_one_call = self.lib is torch or self.loops.sums is not None
        whole = self.is_plain and direct and in_one_call and self._light(mix) is None
        finite = len(used) == self.n  # then NaN or infinity in any row shows in the sums
        for start, stop, tile in self.tiles(self.d if whole else self.width(32768)):
            row = as_array(out[None, start:stop]) if direct else self.buffer("sum", 1, stop - start)
            self._add_up(mix, tile, row)
            if not self.lib.isfinite(row).all():  # rounding may have taken it beyond the largest number
                finite = False
                limit = torch.finfo(self.dtype).max / 2
                self._add_up(mix / 2, tile, row)
                row[...] = 2 * row.clip(-limit, limit)
            if not direct:
                out[start:stop] = as_tensor(row[0])
        self.finite = self.finite or finite
        return out

    def mixed(self, mix: Matrix, tile: Array) -> Array:
        """Return mix @ tile, m x columns, in the workspace."""
        result = self.buffer("rows", mix.shape[0], tile.shape[1])
        self._add_up(mix, tile, result)
        return result

    def _fits_one_call(self, mix: Matrix, tile: Array) -> bool:
        """Return whether one numpy call may add up all products: along any but the innermost axis numpy adds one by one."""
        return self.lib is np and isinstance(mix, np.ndarray) and bool(1 < tile.shape[1] <= FEW // mix.size)

    def _add_up(self, mix: Matrix, tile: Array, out: Array) -> None:
        """Write mix @ tile to ``out``, adding each row's products one by one; a GPU, where no thread splits sums, has its own order."""
        if self.lib is torch and isinstance(mix, np.ndarray) and np.count_nonzero(mix) > MANY * len(mix):
            with full_precision(self.device):
                torch.mm(torch.from_numpy(mix).to(self.device, self.dtype), tile, out=out)
            return
        if (light := self._light(mix)) is not None:
            lighter = self.buffer("lighter", self.n, tile.shape[1])
            lighter[...] = tile
            lighter[light] *= 2.0**-LIFT
            mix, tile = mix * np.where(light, 2.0**LIFT, 1.0), lighter
        if self._fits_one_call(mix, tile):
            np.add.reduce(self._factors(mix)[:, :, None] * tile, axis=1, out=out)
            return
        begins, of, weights = self._entries(mix)
        if self.loops.sums is not None and (tile.shape[1] == 1 or tile.strides[1] == tile.itemsize):
            self.loops.sums.mix(begins, of, weights, torch.from_numpy(tile), torch.from_numpy(out))
            return
        product = self.buffer("product", 1, tile.shape[1])[0]
        for row, first, last in zip(out, begins, begins[1:], strict=False):
            row[...] = 0.0
            for j, weight in zip(of[first:last].tolist(), weights[first:last].tolist(), strict=True):
                self.lib.multiply(tile[j], weight, out=product)
                self.lib.add(row, product, out=row)

    def _entries(self, mix: Matrix) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]:
        """Return a matrix's nonzero entries row by row: where each row begins, and the entries' columns and values."""
        if isinstance(mix, np.ndarray):
            where, of = np.nonzero(mix)
            begins = np.searchsorted(where, np.arange(len(mix) + 1))
            return begins.astype(np.int64), of.astype(np.int64), self._factors(mix[where, of])
        mix = mix.tocsr().sorted_indices()
        return mix.indptr.astype(np.int64), mix.indices.astype(np.int64), self._factors(mix.data)

    def _factors(self, weights: Floats) -> NDArray[np.floating]:
        """Return weights in the precision of the rows."""
        return weights if self.dtype == torch.float64 else weights.astype(np.float32)

    def _light(self, mix: Matrix) -> NDArray[np.bool_] | None:
        """Return which rows have weights too small for float32, such as rows clipped from 1e38; None if no row has."""
        if self.dtype == torch.float64:
            return None
        largest = abs(mix).max(axis=0)
        largest = largest if isinstance(mix, np.ndarray) else largest.toarray().ravel()
        light: NDArray[np.bool_] = (largest < LIGHT) & (largest > 0.0)
        return light if light.any() else None
