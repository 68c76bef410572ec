"""Measurements of the received vectors, each made at most once: inner products, distances, norms."""

from functools import cached_property

import numpy as np
import torch

from byzdist.aggregation import gram
from byzdist.aggregation.types import Floats
from byzdist.aggregation.vectors import Vectors

SAFE_NORMS = 1e-100, 1e139  # between these bounds, squares of float64 rows and of their differences keep their digits


class Geometry:
    """The geometry of the rows of V. Each part is measured, by a pass over the rows, when it is first asked for.

    Args:
        vectors: the rows.
        products: whether inner products will be needed in any case; norms then follow from them, without a separate pass.
    """

    def __init__(self, vectors: Vectors, products: bool = False) -> None:
        self.vectors, self._products = vectors, products

    @property
    def precision(self) -> torch.dtype:
        """The dtype in which inner products are computed: float64 for a small matrix, else the data's own."""
        return torch.float64 if self.vectors.n * self.vectors.d <= gram.SMALL else self.vectors.dtype

    @cached_property
    def _geometry(self) -> tuple[Floats, Floats]:
        found = gram.geometry(self.vectors)
        self.vectors.witness(found[1][-1, :-1])
        is_unsafe = self._unsafe(np.sqrt(found[1][-1, :-1]))
        return gram.geometry(self.vectors) if is_unsafe and self.vectors.tame() else found

    @property
    def gram(self) -> Floats:
        """Inner products (n+1) x (n+1) of the rows and, last, the origin, in a frame near the bulk of the rows."""
        return self._geometry[0]

    @property
    def squared_distances(self) -> Floats:
        """Squared distances (n+1) x (n+1) of the rows and, last, the origin."""
        return self._geometry[1]

    @cached_property
    def from_origin(self) -> Floats:
        """Inner products n x n of the rows as seen from the origin, by a separate pass."""
        self.norms  # noqa: B018  # measures first, because that may change the unit
        return gram.from_origin(self.vectors)

    @cached_property
    def norms(self) -> Floats:
        """Euclidean norm of each row, n values."""
        if self._products:
            return np.sqrt(self.squared_distances[-1, :-1])
        found = gram.norms(self.vectors)
        self.vectors.witness(found)
        return gram.norms(self.vectors) if self._unsafe(found) and self.vectors.tame() else found

    def _unsafe(self, norms: Floats) -> bool:
        ordered: list[float] = sorted(norms.tolist())
        return ordered[self.vectors.n // 2] < SAFE_NORMS[0] or ordered[-1] > SAFE_NORMS[1]
