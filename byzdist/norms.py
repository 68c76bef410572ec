"""The length of a long vector, right to float64 whatever its dtype, without a copy of it."""

import torch
from torch import Tensor

_BLOCK = 2**16  # values; a float64 copy of so many stays in the cache


def norm(vector: Tensor) -> float:
    """Return the Euclidean length of a vector of d values, summed in float64."""
    if len(vector) <= _BLOCK:
        return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
    blocks = (block.double() for block in torch.split(vector, _BLOCK))
    return float(torch.stack([torch.dot(block, block) for block in blocks]).sum().sqrt())
