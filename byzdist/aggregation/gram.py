"""Inner products of the rows, accurate even for rows that nearly agree: tiles in the data's own precision, sums in float64.

A distance computed as K_ii + K_jj - 2 K_ij keeps few digits if it is small beside K_ii. So the rows are measured from a
point among them, and pairs that are still too close for the precision are measured again from one of themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzdist.aggregation.small import product
from byzdist.aggregation.types import Floats, Matrix
from byzdist.aggregation.vectors import Vectors, full_precision
from byzdist.norms import BLOCK, SAFE, add_in_order, add_squares

Indices: TypeAlias = NDArray[np.intp]

WIDTH = 32 * BLOCK
WIDEST = 128 * BLOCK  # the same for columns that are multiplied in place, without a copy
PANEL = 15  # rows that are multiplied with the others in one call: from 16 on, MKL takes twice as long for each
# Squared distances below this share of K_ii + K_jj are measured again.
CANCELLED = {torch.float32: 1 / 16, torch.float64: 1e-9}
# The best row replaces a reference whose typical squared distance is this many times as large.
MISLED = {torch.float32: 4.0, torch.float64: 1e4}
MAX_SQUARED = 1e281  # rows that are farther away are first converted to another unit, see ``Vectors.tame``
SMALL = 1 << 16  # numbers; converting this few to float64 costs nothing
CACHED = 1 << 19  # numbers; this few are measured from the origin first, at little more cost than a better choice
SAMPLE = 64  # the number of rows in the sample that decides on the reference
PIECES = 32  # the number of pieces of 16 columns in that sample


@np.errstate(invalid="ignore", over="ignore")  # float32 may overflow; those sums are computed again in float64
def geometry(vectors: Vectors) -> tuple[Floats, Floats]:
    """Return inner products and squared distances, both (n+1) x (n+1), of the rows and, last, the origin.

    The inner products are those in a frame near the bulk of the rows. Squared distances have a relative error of about
    1e-6, however close two rows are compared to their norms. If the squares overflow float64, all distances are infinite.
    """
    n, small = vectors.n, vectors.n * vectors.d <= SMALL
    everyone = np.arange(n + 1)
    dtype = torch.float64 if small else vectors.dtype
    sampled = n * vectors.d > CACHED
    reference = _reference(vectors) if sampled else n
    for _ in range(3):  # the first reference may be a hostile row
        inner, precision = _seen_from(vectors, everyone, reference, dtype)
        if not (inner.diagonal() <= MAX_SQUARED).all():
            return inner, np.full_like(inner, np.inf)
        squared = _squared(inner)
        typical = _typical(squared[:, :-1])
        best = int(typical.argmin())
        if best == reference or typical[reference] <= MISLED[dtype] * typical[best]:
            break
        reference, sampled = best if sampled else _reference(vectors), True
    _look_again(vectors, inner, squared, everyone, precision, again=precision)
    return inner, squared


def _seen_from(vectors: Vectors, points: Indices, reference: int, dtype: torch.dtype) -> tuple[Floats, torch.dtype]:
    """Return the points' inner products in the frame of the reference (n: the origin), and their precision."""
    inner = _inner_products(vectors, points, reference, dtype)
    if dtype == torch.float32 and not _in_range(vectors, points, inner.diagonal(), reference):
        dtype = torch.float64
        inner = _inner_products(vectors, points, reference, dtype)
    return inner, dtype


def _in_range(vectors: Vectors, points: Indices, squares: Floats, reference: int) -> bool:
    """Return whether float32 can hold these squared distances from the reference; zero is correct only for a copy of it."""
    doubtful = np.flatnonzero(~((squares >= SAFE[0]) & (squares <= SAFE[1]))).tolist()
    rest = [i for i in doubtful if points[i] != reference]
    return all(squares[i] == 0.0 and vectors.equal(int(points[i]), reference) for i in rest)


def from_origin(vectors: Vectors) -> Floats:
    """Return the inner products n x n of the rows, measured from the origin."""
    dtype = torch.float64 if vectors.n * vectors.d <= SMALL else vectors.dtype
    with np.errstate(invalid="ignore", over="ignore"):
        inner, _ = _seen_from(vectors, np.arange(vectors.n + 1), vectors.n, dtype)
    return inner[:-1, :-1]


def norms(vectors: Vectors) -> Floats:
    """Return the Euclidean norm of each row, n values, without computing inner products."""
    if vectors.n * vectors.d <= SMALL and vectors.lib is np:
        small: Floats = vectors.tile(0, vectors.d).astype(np.float64, copy=False)
        squared: Floats = np.einsum("ij,ij->i", small, small)
        return np.sqrt(squared)
    total, sums = np.zeros(vectors.n), vectors.loops.sums
    for _, _, tile in vectors.tiles(vectors.d if sums and vectors.is_plain else vectors.width(WIDTH, BLOCK)):
        add_squares(torch.as_tensor(tile), total, sums.squares if sums else None)
    return np.sqrt(total)


def distances_to(vectors: Vectors, mix: Matrix | None, centre: Tensor) -> Floats:
    """Return the distance of each row of mix @ rows to the vector ``centre``, d entries."""
    m = vectors.n if mix is None else mix.shape[0]
    total, sums = np.zeros(m), vectors.loops.sums if vectors.dtype == torch.float64 else None
    for start, stop, tile in vectors.tiles(vectors.width(WIDTH, BLOCK, buffers=6)):
        rows = torch.as_tensor(tile if mix is None else vectors.mixed(mix, tile))
        away = torch.as_tensor(vectors.buffer("away", m, stop - start, torch.float64))
        add_squares(away.copy_(rows).sub_(centre[start:stop]), total, sums.squares if sums else None)
    return np.sqrt(total)


def _squared(inner: Floats) -> Floats:
    diagonal = inner.diagonal()
    squared: Floats = np.maximum(diagonal[:, None] + diagonal - 2 * inner, 0.0)
    np.fill_diagonal(squared, 0.0)
    return squared


def _typical(squared: Floats) -> Floats:
    """Return the median squared distance of each point (the larger of the middle two): a minority cannot make it small."""
    middle = squared.shape[1] // 2
    typical: Floats = np.partition(squared, middle, axis=1)[:, middle]
    return typical


def _reference(vectors: Vectors) -> int:
    """Return the row (n: the origin) from which to measure the others, chosen by a sample of rows and columns."""
    n = vectors.n
    rows = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(int))
    sample = vectors.sample(rows, PIECES, 16).cpu().numpy()
    inner = product(sample, np.ascontiguousarray(sample.T))
    squared = _squared(inner)
    squared[~(squared <= MAX_SQUARED)] = MAX_SQUARED
    typical = _typical(squared)
    best = int(typical.argmin())
    return int(rows[best]) if typical[best] < min(inner[best, best] / 2, MAX_SQUARED) else n


def _inner_products(vectors: Vectors, points: Indices, reference: int, dtype: torch.dtype) -> Floats:
    """Return the inner products of the points (row numbers; n is the origin) as seen from the reference, one of the points."""
    n, d = vectors.n, vectors.d
    shifted, all_rows = reference != n, len(points) == n + 1
    rows = points[points < n]
    has_origin = shifted and len(rows) < len(points)
    m = len(rows) + has_origin
    total = np.zeros((m, m))
    if vectors.loops.products is not None and vectors.is_plain and dtype == vectors.dtype:
        first, step = vectors.V.data_ptr(), vectors.V.stride(0) * dtype.itemsize
        addresses = np.append(first + step * rows, np.zeros(int(has_origin), dtype=np.int64))
        vectors.loops.products(addresses, first + step * reference if shifted else None, d, total)
        return _with_zeros(np.where(_upper(m), total, total.T), points, rows, has_origin, n)
    block = BLOCK if d > BLOCK else max(16, -(-d // 32) * 16)
    done = _in_place(vectors, block) if not shifted and all_rows and dtype == vectors.dtype else 0
    step = WIDEST if vectors.lib is np else vectors.width(WIDEST, block)
    for start in range(0, done, step):
        stop = min(start + step, done)
        _add_products(vectors.V[:, start:stop], (stop - start) // block, total)
    width = vectors.width(WIDTH, 2 * block, buffers=1 if dtype == vectors.dtype else 2)
    for start in range(done, d, width):
        stop = min(start + width, d)
        blocks = max(2, -(-(stop - start) // block))  # at least two: a library may split a single one among threads
        tile = torch.as_tensor(vectors.tile(start, stop))
        buffer = torch.as_tensor(vectors.buffer("rows", m, blocks * block, dtype))
        view = buffer[:, : stop - start]
        buffer[:, stop - start :].zero_()
        _see_from(tile, None if all_rows else rows, reference if shifted else None, view[: len(rows)])
        if has_origin:
            torch.neg(tile[reference], out=view[-1]) if dtype == tile.dtype else view[-1].copy_(tile[reference]).neg_()
        _add_products(buffer, blocks, total)
    return _with_zeros(np.where(_upper(m), total, total.T), points, rows, has_origin, n)


def _in_place(vectors: Vectors, block: int) -> int:
    """Return how many columns, from the first on, can be multiplied in place, with the same bits as a copy in the workspace.

    Without a compiler, krum takes 20 % longer if all columns are copied (20 rows of a million), and 40 % with rows of 100 000.
    """
    V = vectors.V
    if not vectors.is_plain or any(address % 64 for address in (V.data_ptr(), V.stride(0) * V.element_size())):
        return 0
    blocks = vectors.d // block
    return block * (blocks - (blocks % (WIDEST // BLOCK) == 1))  # no block on its own, see `_inner_products`


@lru_cache(maxsize=64)
def _upper(m: int) -> NDArray[np.bool_]:
    return np.triu(np.ones((m, m), dtype=np.bool_))


def _add_products(tile: Tensor, blocks: int, total: Floats) -> None:
    """Add the inner products of the rows to the upper half of ``total``, one block of columns after the other."""
    parts = tile.view(len(tile), blocks, -1).transpose(0, 1)
    if not tile.is_cpu:  # no number of threads changes the order of a sum there
        with full_precision(tile.device):
            total += torch.bmm(parts, parts.transpose(1, 2)).sum(0, dtype=torch.float64).cpu().numpy()
        return
    with _one_thread():
        for first in range(0, len(total), PANEL):
            last = first + PANEL
            products = torch.bmm(parts[:, first:last], parts[:, first:].transpose(1, 2))
            add_in_order(products.numpy(), total[first:last, first:])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Multiply in one thread: with several, a library may split the sum, which changes its bits."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _see_from(tile: Tensor, rows: Indices | None, reference: int | None, out: Tensor) -> None:
    chosen = tile if rows is None else tile[torch.from_numpy(rows)]
    if reference is None:
        out.copy_(chosen)
    elif out.dtype == tile.dtype:
        torch.sub(chosen, tile[reference], out=out)
    else:
        out.copy_(chosen).sub_(tile[reference])


def _with_zeros(total: Floats, points: Indices, rows: Indices, has_origin: bool, n: int) -> Floats:
    """Return the matrix for all points; if the origin is the reference, its products are zero."""
    if len(points) == len(rows) or has_origin:
        return total
    full = np.zeros((len(points), len(points)))
    full[:-1, :-1] = total
    return full


def _look_again(
    vectors: Vectors, inner: Floats, squared: Floats, points: Indices, precision: torch.dtype, again: torch.dtype
) -> None:
    """Replace the products and distances of close pairs, whose digits cancellation destroyed, group by group.

    The difference of two close numbers is exact in any precision. So the function subtracts one point of each group from the
    others, and measures the differences in the precision ``again``. It measures pairs that are still too close in float64.
    """
    diagonal = inner.diagonal().copy()
    close = squared < CANCELLED[precision] * (diagonal[:, None] + diagonal)
    if np.count_nonzero(close) == np.count_nonzero(close.diagonal()):
        return
    np.fill_diagonal(close, True)
    group_of = _components(close)
    for group in np.unique(group_of):
        members = np.flatnonzero(group_of == group)
        if len(members) < 2:
            continue
        chosen = points[members]
        centre = int(chosen[-1] if chosen[-1] == vectors.n else chosen[close[np.ix_(members, members)].sum(1).argmax()])
        products, finest = _seen_from(vectors, chosen, centre, again)
        finer = _squared(products)
        _look_again(vectors, products, finer, chosen, finest, again=torch.float64)
        squared[np.ix_(members, members)] = finer
        own = diagonal[members]
        inner[np.ix_(members, members)] = (own[:, None] + own - finer) / 2


def _components(linked: NDArray[np.bool_]) -> Indices:
    """Return for each point the first point that it is linked with, directly or through others; each is linked with itself."""
    first = np.arange(len(linked))
    while True:
        lower = np.where(linked, first, len(linked)).min(axis=1)
        lower = lower[lower]  # jumps to that point's own first, which halves the number of passes
        if np.array_equal(lower, first):
            return first
        first = lower
