"""Random sparsification: a message holds only values, because the server draws the same coordinates itself."""

from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from byzdist.compression.base import COMPRESSORS, Compressor
from byzdist.rounds import Memory, Round


def draw_mask(generator: np.random.Generator, dimension: int, count: int) -> Tensor:
    """Draw a uniformly random set of ``count`` of ``dimension`` coordinates, in ascending order (int64).

    Coordinates are drawn with replacement until enough different ones are found. The set is uniform, and needs one byte of memory
    a coordinate. If more than half of the coordinates are wanted, those to leave out are drawn instead.
    """
    target = min(count, dimension - count)
    chosen = np.zeros(dimension, dtype=bool)
    missing = target
    while missing:
        chosen[generator.integers(0, dimension, size=missing)] = True
        missing = target - int(np.count_nonzero(chosen))
    return torch.from_numpy(np.flatnonzero(chosen if target == count else ~chosen))


@COMPRESSORS.register("rand_k", "random_k", "random_sparsification")
class RandK(Compressor):
    """Keep K = ceil(ratio·d) uniform coordinates, scaled by d/K: ω = d/K - 1, D_Q = d/K.

    With ``support: shared`` the whole cohort has the same mask in a round. The theorems do not cover that, because they assume
    independence, but median-type rules need it: with independent masks, most vectors have a zero at any given coordinate.

    Byzantine clients are bound by this too. They know their coordinates and can send any K values for them, however large, but a
    message has no room for other coordinates: they can neither choose their coordinates nor change all of them in one round.
    """

    def __init__(
        self, *, ratio: Annotated[float, Gt(0), Le(1)], support: Literal["independent", "shared"] = "independent"
    ) -> None:
        self._ratio, self._shared = ratio, support == "shared"
        self.independent = not self._shared

    def _count(self, dimension: int) -> int:
        return int(np.ceil(self._ratio * dimension))

    def nonzeros(self, dimension: int) -> float:
        """Return K."""
        return float(self._count(dimension))

    def omega(self, dimension: int) -> float:
        """Return d/K - 1."""
        return dimension / self._count(dimension) - 1

    def norm_bound(self, dimension: int) -> float:
        """Return d/K."""
        return dimension / self._count(dimension)

    def length(self, dimension: int, dtype: torch.dtype) -> int:
        """Return the size of K values."""
        return self._count(dimension) * dtype.itemsize

    def _mask(self, dimension: int, round_: Round, client: int) -> Tensor:
        generator = round_.rng("shared mask") if self._shared else round_.rng("mask", client)
        return draw_mask(generator, dimension, self._count(dimension))

    def encode(self, vector: Tensor, payload: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Gather the chosen values, scaled by d/K."""
        mask = self._mask(len(vector), round_, client).to(vector.device)
        kept = payload.view(vector.dtype)
        torch.index_select(vector, 0, mask, out=kept)
        kept.mul_(len(vector) / len(mask))

    def decode(self, payload: Tensor, vector: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Put the values back at their coordinates, zeros elsewhere."""
        mask = self._mask(len(vector), round_, client).to(vector.device)
        vector.zero_().index_copy_(0, mask, payload.view(vector.dtype))
