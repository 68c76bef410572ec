"""The vectors that a rule sees, known by their inner products: mixing them again and again never touches the data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from math import frexp, ldexp
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import scipy.sparse
import torch

from byzdist.aggregation.rules import Floats
from byzdist.aggregation.small import product

if TYPE_CHECKING:
    from byzdist.aggregation.vectors import Vectors

Matrix: TypeAlias = Any  # a dense float64 array or, where it would be large and empty, a scipy.sparse array

SPARSE_FROM = 256  # rows
MILD = 2.0**-7  # factors; where most are smaller, points are seen in another frame
FAR = 1e6  # times the median square, from which on a point is no honest one's neighbour
SMALLEST = 2.0**-100  # factors all of which are below it are given in another unit


class Points:
    """m vectors, each a weighted sum of the n rows that were received: y = mix @ rows, weights of at most one in sum.

    What the weights lack to one is a weight on the origin, so that each y is an affine combination of rows and origin,
    and its position follows from the inner products of those in any frame of reference.
    """

    def __init__(
        self,
        vectors: Vectors,
        mix: Matrix | None = None,
        norms: Floats | None = None,
        own_unit: float = 1.0,
        geometry: Callable[[], tuple[Floats, Floats]] | None = None,
    ) -> None:
        self.vectors, self.mix, self._norms, self._own_unit = vectors, mix, norms, own_unit
        self._make_geometry = geometry
        self.size: int = vectors.n if mix is None else mix.shape[0]

    @property
    def unit(self) -> float:
        """What everything here is multiplied with to be in the unit of the data: a power of two, known once anything is measured."""
        return self.vectors.unit * self._own_unit

    def mixed(self, matrix: Matrix) -> Points:
        """Return the points matrix @ these."""
        mix = matrix if self.mix is None else product(matrix, self.mix)
        return Points(self.vectors, mix, None, self._own_unit, lambda: self._mixed(matrix))

    def scaled(self, factors: Floats) -> Points:
        """Return these points, each times its factor (0 to 1)."""
        ordered = sorted(factors.tolist())
        heavily, unit = ordered[self.size // 2] < MILD, self._own_unit
        if 0.0 < ordered[-1] < SMALLEST:  # products of such weights would vanish
            exponent = frexp(ordered[-1])[1]
            unit, factors = ldexp(unit, exponent), np.ldexp(factors, -exponent)
        norms = None if self._norms is None else factors * self._norms
        if self.mix is not None:
            mix = factors[:, None] * self.mix
        else:
            mix = scipy.sparse.diags_array(factors).tocsr() if self.size >= SPARSE_FROM else np.diag(factors)

        def geometry() -> tuple[Floats, Floats]:
            if heavily:
                return _scaled(self._from_origin(), self._squared, factors)
            return self._mixed(np.diag(factors) if self.size < SPARSE_FROM else scipy.sparse.diags_array(factors))

        return Points(self.vectors, mix, norms, unit, geometry)

    def identity(self) -> Matrix:
        """Return the matrix that leaves the points as they are."""
        return scipy.sparse.eye_array(self.size).tocsr() if self.size >= SPARSE_FROM else np.eye(self.size)

    def norms(self) -> Floats:
        """Return the length of each point, m values."""
        if self._norms is None and self.mix is None:
            self._norms = self.vectors.lengths
        elif self._norms is None:
            self._norms = np.sqrt(self._squared[-1, :-1])
        return self._norms

    @cached_property
    def _geometry(self) -> tuple[Floats, Floats]:
        if self._make_geometry is None:
            return self.vectors.gram, self.vectors.squared_distances
        return self._make_geometry()

    @property
    def gram(self) -> Floats:
        """Inner products (m+1) x (m+1) of the points and, last, the origin, in a frame near the bulk of the vectors."""
        return self._geometry[0]

    def _from_origin(self) -> Floats:
        """Return the inner products m x m as seen from the origin, for which the data are read once more."""
        inner = self.vectors.from_origin
        return inner if self.mix is None else product(self.mix, product(self.mix, inner).T)

    @property
    def _squared(self) -> Floats:
        return self._geometry[1]

    def _mixed(self, matrix: Matrix) -> tuple[Floats, Floats]:
        """Return the inner products and squared distances of matrix @ these, the origin being last.

        Of far points that cancel, rounding leaves anything. A point with such in it is taken to be as far away as that may be,
        in a direction of its own, so that it never looks near.
        """
        gram, m = self.gram, matrix.shape[0]
        lack = 1.0 - np.asarray(matrix.sum(axis=1)).ravel()
        lack[np.abs(lack) < 1e-12] = 0.0  # rounding; a far origin would blow it up
        half = product(matrix, gram[:-1]) + lack[:, None] * gram[-1]
        result = np.empty((m + 1, m + 1))
        result[:-1, :-1] = product(matrix, half[:, :-1].T).T + half[:, -1:] * lack
        result[:-1, -1] = result[-1, :-1] = half[:, -1]
        result[-1, -1] = gram[-1, -1]
        squares = gram.diagonal()[:-1]
        ordered = sorted(squares.tolist())
        if ordered[-1] > FAR * ordered[self.size // 2]:
            sizes = product(abs(matrix), np.sqrt(np.maximum(squares, 0.0))) ** 2
            far = np.flatnonzero(sizes > FAR * ordered[self.size // 2])
            result[far, far] += 8 * torch.finfo(self.vectors.dtype).eps * sizes[far]
        return result, squared_distances(result)

    def squared_distances(self) -> Floats:
        """Return the squared distance of each pair of points, m x m."""
        return self._squared[:-1, :-1]

    def distances_to(self, weights: Floats) -> Floats:
        """Return the distance of each point to the weighted sum of the points, m values."""
        gram = self.gram
        affine = np.append(weights, 1.0 - weights.sum())
        inner = product(gram, affine)
        squared = gram.diagonal() - 2 * inner + product(affine[None], inner)
        distances: Floats = np.sqrt(np.maximum(squared, 0.0))[:-1]
        return distances


def _scaled(from_origin: Floats, squared: Floats, factors: Floats) -> tuple[Floats, Floats]:
    """Return the inner products and squared distances of points times their factors, in a frame near the bulk of those.

    Where most are shortened so far that they lie close together near the origin, the frame of before is far from them, and
    what they differ by is lost in it. So distances come first: of two that were close, from their distance,
    |c v - b w|^2 = b c |v - w|^2 + (c - b)(c |v|^2 - b |w|^2); of others, from their inner product.
    """
    norms = from_origin.diagonal()
    both, shorter = factors[:, None] * factors, factors * norms
    near = both * squared[:-1, :-1] + (factors[:, None] - factors) * (shorter[:, None] - shorter)
    far = (factors * shorter)[:, None] + factors * shorter - 2 * both * from_origin
    lengths, result = np.sqrt(norms), np.zeros_like(squared)
    result[:-1, :-1] = np.maximum(np.where(squared[:-1, :-1] <= lengths[:, None] * lengths, near, far), 0.0)
    result[-1, :-1] = result[:-1, -1] = factors * shorter
    np.fill_diagonal(result, 0.0)
    middle = len(factors) // 2
    seen = result[np.partition(result[:, :-1], middle, axis=1)[:, middle].argmin()]
    return (seen[:, None] + seen - result) / 2, result


def squared_distances(gram: Floats) -> Floats:
    """Return the squared distances that belong to inner products; what rounding alone can explain is zero."""
    diagonal = gram.diagonal()
    lengths = diagonal[:, None] + diagonal
    squared = lengths - 2 * gram
    squared[squared < 8 * np.finfo(np.float64).eps * np.maximum(lengths, 0.0)] = 0.0
    np.fill_diagonal(squared, 0.0)
    return squared
