"""Sparsification to the largest values: a message holds them and their coordinates."""

import math
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from byzdist.compression.base import COMPRESSORS, Compressor
from byzdist.rounds import Memory, Round

_INDEX = torch.int32


@COMPRESSORS.register("top_k", "topk")
class TopK(Compressor):
    """Keep the K = ceil(ratio·d) values of the largest magnitude, unscaled: biased, ‖C(v) - v‖² <= (1 - K/d)‖v‖², D_Q = 1.

    It is for methods that send differences from a copy, such as `byz_ef21`, or for `error_feedback`. On the wire are K values, then
    K coordinates (int32), ascending. A Byzantine client chooses its coordinates freely.
    """

    unbiased = False

    def __init__(self, *, ratio: Annotated[float, Gt(0), Le(1)]) -> None:
        self._ratio = ratio

    def _count(self, dimension: int) -> int:
        return math.ceil(self._ratio * dimension)

    def nonzeros(self, dimension: int) -> float:
        """Return K."""
        return float(self._count(dimension))

    def norm_bound(self, dimension: int) -> float:
        """Return 1."""
        return 1.0

    def length(self, dimension: int, dtype: torch.dtype) -> int:
        """Return the size of K values and K coordinates."""
        return self._count(dimension) * (dtype.itemsize + _INDEX.itemsize)

    def _parts(self, payload: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places of the values and of the coordinates in a payload."""
        end = self._count(len(like)) * like.dtype.itemsize
        return payload[:end].view(like.dtype), payload[end:].view(_INDEX)

    def encode(self, vector: Tensor, payload: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Gather the largest values; NaN counts as the largest, so that the server sees it."""
        values, coordinates = self._parts(payload, vector)
        chosen = vector.abs().topk(len(values), sorted=False).indices.sort().values
        torch.index_select(vector, 0, chosen, out=values)
        coordinates.copy_(chosen)

    def decode(self, payload: Tensor, vector: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Put the values at their coordinates, zeros elsewhere; NaN everywhere if the coordinates are not d's in ascending order."""
        values, coordinates = self._parts(payload, vector)
        ascending = bool((coordinates[1:] > coordinates[:-1]).all())
        if not ascending or coordinates[0] < 0 or coordinates[-1] >= len(vector):
            vector.fill_(torch.nan)
            return
        vector.zero_().index_copy_(0, coordinates.long(), values)
