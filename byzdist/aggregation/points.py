"""The vectors that a rule sees, represented by weights and inner products: mixing them, however often, does not read the data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from math import frexp, ldexp

import numpy as np
import scipy.sparse
import torch

from byzdist.aggregation.geometry import Geometry
from byzdist.aggregation.small import product
from byzdist.aggregation.types import Floats, Matrix
from byzdist.aggregation.vectors import Vectors

SPARSE_FROM = 256  # rows; from this many on, mixing matrices are sparse
MILD = 2.0**-7  # if most factors are below this, inner products are taken from the origin's frame
FAR = 1e6  # times the median square: beyond this distance a point is not near any honest one
SMALLEST = 2.0**-100  # if all factors are below this, the unit takes up the difference


class Points:
    """m vectors, each a weighted sum of the n received rows: y = mix @ rows, where each row of weights sums to at most one.

    The rest, one minus that sum, is the weight of the origin. So each y is an affine combination of the rows and the origin,
    and its position follows from their inner products in any frame of reference.
    """

    def __init__(
        self,
        geometry: Geometry,
        mix: Matrix | None = None,
        norms: Floats | None = None,
        own_unit: float = 1.0,
        own_geometry: Callable[[], tuple[Floats, Floats]] | None = None,
    ) -> None:
        self.geometry, self.mix, self._norms, self._own_unit = geometry, mix, norms, own_unit
        self._make_geometry = own_geometry
        self.size: int = geometry.vectors.n if mix is None else mix.shape[0]

    @property
    def vectors(self) -> Vectors:
        """The rows."""
        return self.geometry.vectors

    @property
    def unit(self) -> float:
        """The factor, a power of two, that turns every value here into the data's unit; known after the first measurement."""
        return self.vectors.unit * self._own_unit

    def mixed(self, matrix: Matrix) -> Points:
        """Return the points matrix @ these."""
        mix = matrix if self.mix is None else product(matrix, self.mix)

        def geometry() -> tuple[Floats, Floats]:
            gram = self._doubted(matrix, self._mixed(matrix))
            return gram, squared_distances(gram)

        return Points(self.geometry, mix, None, self._own_unit, geometry)

    def scaled(self, factors: Floats) -> Points:
        """Return these points, each times its factor (0 to 1)."""
        ordered = sorted(factors.tolist())
        heavily, unit = ordered[self.size // 2] < MILD, self._own_unit
        if 0.0 < ordered[-1] < SMALLEST:  # products of such weights would underflow
            exponent = frexp(ordered[-1])[1]
            unit, factors = ldexp(unit, exponent), np.ldexp(factors, -exponent)
        norms = None if self._norms is None else factors * self._norms
        scale = scipy.sparse.diags_array(factors).tocsr() if self.size >= SPARSE_FROM else np.diag(factors)
        mix = scale if self.mix is None else factors[:, None] * self.mix

        def geometry() -> tuple[Floats, Floats]:
            if not heavily:
                return self._scaled(factors, self._mixed(scale))
            gram = np.zeros_like(self._squared)
            gram[:-1, :-1] = factors[:, None] * factors * self._from_origin()
            return self._scaled(factors, gram)

        return Points(self.geometry, mix, norms, unit, geometry)

    def identity(self) -> Matrix:
        """Return the identity matrix, which leaves the points unchanged."""
        return scipy.sparse.eye_array(self.size).tocsr() if self.size >= SPARSE_FROM else np.eye(self.size)

    def norms(self) -> Floats:
        """Return the norm of each point, m values."""
        if self._norms is None and self.mix is None:
            self._norms = self.geometry.norms
        elif self._norms is None:
            self._norms = np.sqrt(self._squared[-1, :-1])
        return self._norms

    @cached_property
    def _geometry(self) -> tuple[Floats, Floats]:
        if self._make_geometry is None:
            return self.geometry.gram, self.geometry.squared_distances
        return self._make_geometry()

    @property
    def gram(self) -> Floats:
        """Inner products (m+1) x (m+1) of the points and, last, the origin, in a frame near the bulk of the vectors."""
        return self._geometry[0]

    def _from_origin(self) -> Floats:
        """Return the inner products m x m as seen from the origin; this reads the data once more."""
        inner = self.geometry.from_origin
        return inner if self.mix is None else product(self.mix, product(self.mix, inner).T)

    @property
    def _squared(self) -> Floats:
        return self._geometry[1]

    def _mixed(self, matrix: Matrix) -> Floats:
        """Return the inner products of matrix @ these, with the origin last."""
        gram, m = self.gram, matrix.shape[0]
        lack = 1.0 - np.asarray(matrix.sum(axis=1)).ravel()
        lack[np.abs(lack) < 1e-12] = 0.0  # a rounding error, which a far origin would magnify
        half = product(matrix, gram[:-1]) + lack[:, None] * gram[-1]
        result = np.empty((m + 1, m + 1))
        result[:-1, :-1] = product(matrix, half[:, :-1].T).T + half[:, -1:] * lack
        result[:-1, -1] = result[-1, :-1] = half[:, -1]
        result[-1, -1] = gram[-1, -1]
        return result

    def _doubted(self, matrix: Matrix, gram: Floats) -> Floats:
        """Return the inner products of matrix @ these, given as ``gram``, corrected for sums of far points that cancel.

        After rounding, such a sum may have any value. So a point that contains one counts as far away as its rounding error
        allows, in a direction of its own: it never looks near.
        """
        squares = self.gram.diagonal()[:-1]
        ordered = sorted(squares.tolist())
        if ordered[-1] > FAR * ordered[self.size // 2]:
            sizes = product(abs(matrix), np.sqrt(np.maximum(squares, 0.0))) ** 2
            far = np.flatnonzero(sizes > FAR * ordered[self.size // 2])
            gram[far, far] += 8 * torch.finfo(self.vectors.dtype).eps * sizes[far]
        return gram

    def _scaled(self, factors: Floats, gram: Floats) -> tuple[Floats, Floats]:
        """Return the inner products and squared distances of the scaled points, in a frame near the bulk of them.

        ``gram`` holds their inner products in a frame that may be far from the scaled points. There rounding hides the
        differences of points that are close now, and the square root of a rounding error looks like a spread. So the distance
        of two points that were close follows from their old one,
        |c v - b w|^2 = b c |v - w|^2 + (c - b)(c |v|^2 - b |w|^2), and counts as zero if rounding alone can explain it.
        Inner products follow from the distances, unless the distances are the larger numbers.
        """
        squared, squared_norms, result = self._squared[:-1, :-1], self._squared[-1, :-1], squared_distances(gram)
        scaled, difference = factors * squared_norms, factors[:, None] - factors
        apart = factors[:, None] * factors * squared
        near = apart + difference * (scaled[:, None] - scaled)
        rounding = 8 * torch.finfo(self.geometry.precision).eps
        near[near < rounding * (apart + np.abs(difference) * (scaled[:, None] + scaled))] = 0.0
        norms = np.sqrt(squared_norms)
        result[:-1, :-1] = np.where(squared <= norms[:, None] * norms, near, result[:-1, :-1])
        result[-1, :-1] = result[:-1, -1] = factors * scaled
        middle = len(factors) // 2
        best = int(np.partition(result[:-1, :-1], middle, axis=1)[:, middle].argmin())
        seen, reach = result[best], np.sqrt(np.maximum(gram.diagonal(), 0.0))
        reach += reach[best]
        moved = gram - (gram[best][:, None] + gram[best]) + gram[best, best]
        both = seen[:, None] + seen
        return np.where(both <= reach[:, None] * reach, (both - result) / 2, moved), result

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


def squared_distances(gram: Floats) -> Floats:
    """Return the squared distances that follow from inner products; those that rounding alone can explain are zero."""
    diagonal = gram.diagonal()
    sums = diagonal[:, None] + diagonal
    squared = sums - 2 * gram
    squared[squared < 8 * np.finfo(np.float64).eps * np.maximum(sums, 0.0)] = 0.0
    np.fill_diagonal(squared, 0.0)
    return squared
