"""Stochastic quantization to a few levels: one norm, and a few bits a value."""

from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from byzdist.compression.base import COMPRESSORS, Compressor
from byzdist.compression.bits import pack, packed_length, unpack
from byzdist.norms import norm
from byzdist.rounds import Memory, Round

_NORM = torch.float32


@COMPRESSORS.register("qsgd", "l2_quantization", "quantization")
class QSGD(Compressor):
    """Round each |v_i|/‖v‖ at random to one of the s levels above 0, or to 0: Alistarh et al., "QSGD", NeurIPS 2017.

    On the wire are ‖v‖ (float32) and for each value a code of ceil(log2(2s + 1)) bits. ω = min(d/s², √d/s) and
    D_Q = min(√d, 1 + √d/s), because a value is at most ‖v‖ and moves by at most ‖v‖/s.
    """

    def __init__(self, *, levels: Annotated[int, Ge(1), Le(2**15 - 1)] = 1) -> None:
        self._levels, self._bits = levels, (2 * levels).bit_length()

    def nonzeros(self, dimension: int) -> float:
        """Return s(s + √d), which bounds the expected number of nonzero values, or d if that is smaller."""
        return float(min(dimension, self._levels * (self._levels + dimension**0.5)))

    def omega(self, dimension: int) -> float:
        """Return min(d/s², √d/s)."""
        return float(min(dimension / self._levels**2, dimension**0.5 / self._levels))

    def norm_bound(self, dimension: int) -> float:
        """Return min(√d, 1 + √d/s)."""
        return float(min(dimension**0.5, 1 + dimension**0.5 / self._levels))

    def length(self, dimension: int, dtype: torch.dtype) -> int:
        """Return the size of the norm and of d codes."""
        return _NORM.itemsize + packed_length(dimension, self._bits)

    def encode(self, vector: Tensor, payload: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Round at random; a vector that is not finite is sent as a norm that is not."""
        size = _rounded_up(norm(vector))
        payload[: _NORM.itemsize] = torch.tensor([size], dtype=_NORM).view(torch.uint8).to(payload.device)
        scaled = vector.abs().mul_(self._levels / size if 0 < size < np.inf else 0.0).nan_to_num_(0.0)
        floors = scaled.clamp_(max=self._levels).floor()
        drawn = round_.rng("rounding", client).random(len(vector), _numpy(vector.dtype))
        floors += torch.from_numpy(drawn).to(vector.device) < scaled.sub_(floors)
        codes = floors.copysign_(vector).add_(self._levels).long()
        pack(codes, self._bits, payload[_NORM.itemsize :])

    def decode(self, payload: Tensor, vector: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Multiply norm and levels; a code that stands for no level makes its value NaN."""
        size = float(payload[: _NORM.itemsize].cpu().clone().view(_NORM))
        codes = unpack(payload[_NORM.itemsize :], len(vector), self._bits)
        vector.copy_(codes).sub_(self._levels).div_(self._levels).mul_(size)
        vector.masked_fill_(codes > 2 * self._levels, torch.nan)


def _numpy(dtype: torch.dtype) -> type[np.float32] | type[np.float64]:
    return np.float32 if dtype == torch.float32 else np.float64


def _rounded_up(size: float) -> float:
    """Return the smallest float32 that is at least ``size``: with a smaller norm the largest values would be too small on average."""
    with np.errstate(over="ignore"):
        near = np.float32(size)
    return float(near if not near < size else np.nextafter(near, np.float32(np.inf)))
