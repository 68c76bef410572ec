"""The vectors that a rule sees, known by their inner products: mixing them again and again never touches the data."""

from __future__ import annotations

from functools import cached_property
from math import frexp, ldexp
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import scipy.sparse

from byzdist.aggregation.rules import Floats
from byzdist.aggregation.small import product

if TYPE_CHECKING:
    from byzdist.aggregation.vectors import Vectors

Matrix: TypeAlias = Any  # a dense float64 array or, where it would be large and empty, a scipy.sparse array

SPARSE_FROM = 256  # rows
SMALLEST = 2.0**-100  # factors all of which are below it are given in another unit


class Points:
    """m vectors, each a weighted sum of the n rows that were received: y = mix @ rows, weights of at most one in sum.

    What the weights lack to one is a weight on the origin, so that each y is an affine combination of rows and origin,
    and its position follows from the inner products of those in any frame of reference.
    """

    def __init__(
        self, vectors: Vectors, mix: Matrix | None = None, norms: Floats | None = None, own_unit: float = 1.0
    ) -> None:
        self.vectors, self.mix, self._norms, self._own_unit = vectors, mix, norms, own_unit
        self.size: int = vectors.n if mix is None else mix.shape[0]

    @property
    def unit(self) -> float:
        """What everything here is multiplied with to be in the unit of the data: a power of two, known once anything is measured."""
        return self.vectors.unit * self._own_unit

    def mixed(self, matrix: Matrix) -> Points:
        """Return the points matrix @ these."""
        return Points(self.vectors, matrix if self.mix is None else product(matrix, self.mix), own_unit=self._own_unit)

    def scaled(self, factors: Floats) -> Points:
        """Return these points, each times its factor (0 to 1)."""
        unit, largest = self._own_unit, float(factors.max())
        if 0.0 < largest < SMALLEST:  # products of such weights would vanish
            unit, factors = ldexp(unit, frexp(largest)[1]), np.ldexp(factors, -frexp(largest)[1])
        norms = None if self._norms is None else factors * self._norms
        if self.mix is not None:
            return Points(self.vectors, factors[:, None] * self.mix, norms, unit)
        sparse = self.size >= SPARSE_FROM
        matrix = scipy.sparse.diags_array(factors).tocsr() if sparse else np.diag(factors)
        return Points(self.vectors, matrix, norms, unit)

    def identity(self) -> Matrix:
        """Return the matrix that leaves the points as they are."""
        return scipy.sparse.eye_array(self.size).tocsr() if self.size >= SPARSE_FROM else np.eye(self.size)

    def norms(self) -> Floats:
        """Return the length of each point, m values."""
        if self._norms is None and self.mix is None:
            self._norms = self.vectors.lengths
        elif self._norms is None:
            gram = self.gram
            squared = gram.diagonal()[:-1] - 2 * gram[-1, :-1] + gram[-1, -1]
            self._norms = np.sqrt(np.maximum(squared, 0.0))
        return self._norms

    @cached_property
    def gram(self) -> Floats:
        """Inner products (m+1) x (m+1) of the points and, last, the origin, in a frame near the bulk of the vectors."""
        if self.mix is None:
            return self.vectors.gram
        gram, mix = self.vectors.gram, self.mix
        lack = 1.0 - np.asarray(mix.sum(axis=1)).ravel()
        lack[np.abs(lack) < 1e-12] = 0.0  # rounding; a far origin would blow it up
        half = product(mix, gram[:-1]) + lack[:, None] * gram[-1]
        result = np.empty((self.size + 1, self.size + 1))
        result[:-1, :-1] = product(mix, half[:, :-1].T).T + half[:, -1:] * lack
        result[:-1, -1] = result[-1, :-1] = half[:, -1]
        result[-1, -1] = gram[-1, -1]
        return result

    def squared_distances(self) -> Floats:
        """Return the squared distance of each pair of points, m x m."""
        if self.mix is None:
            return self.vectors.squared_distances[:-1, :-1]
        return squared_distances(self.gram[:-1, :-1])

    def distances_to(self, weights: Floats) -> Floats:
        """Return the distance of each point to the weighted sum of the points, m values."""
        gram = self.gram
        affine = np.append(weights, 1.0 - weights.sum())
        inner = product(gram, affine)
        squared = gram.diagonal() - 2 * inner + product(affine[None], inner)
        distances: Floats = np.sqrt(np.maximum(squared, 0.0))[:-1]
        return distances


def squared_distances(gram: Floats) -> Floats:
    """Return the squared distances that belong to inner products; what rounding alone can explain is zero."""
    diagonal = gram.diagonal()
    lengths = diagonal[:, None] + diagonal
    squared = lengths - 2 * gram
    squared[squared < 8 * np.finfo(np.float64).eps * lengths] = 0.0
    np.fill_diagonal(squared, 0.0)
    return squared
