"""No compression."""

import torch
from torch import Tensor

from byzdist.compression.base import COMPRESSORS, Compressor
from byzdist.rounds import Memory, Round


@COMPRESSORS.register("identity", "none")
class Identity(Compressor):
    """Send every value unchanged: ω = 0, D_Q = 1."""

    in_place = True

    def nonzeros(self, dimension: int) -> float:
        """Return d."""
        return float(dimension)

    def omega(self, dimension: int) -> float:
        """Return 0."""
        return 0.0

    def norm_bound(self, dimension: int) -> float:
        """Return 1."""
        return 1.0

    def length(self, dimension: int, dtype: torch.dtype) -> int:
        """Return the size of d values."""
        return dimension * dtype.itemsize

    def encode(self, vector: Tensor, payload: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Copy the values, unless the vector is the payload itself."""
        if payload.data_ptr() != vector.data_ptr():
            payload.view(vector.dtype).copy_(vector)

    def decode(self, payload: Tensor, vector: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Copy the values, unless the vector is the payload itself."""
        if payload.data_ptr() != vector.data_ptr():
            vector.copy_(payload.view(vector.dtype))
