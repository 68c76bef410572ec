"""Natural compression: every value becomes a power of two."""

import numpy as np
import torch
from torch import Tensor

from byzdist.compression.base import COMPRESSORS, Compressor
from byzdist.compression.bits import pack, packed_length, unpack
from byzdist.rounds import Memory, Round

_BITS = 9  # sign and exponent, as in a float32
_MANTISSA = 23  # bits of a float32 that are left out
_BIAS, _INFINITE = 127, 255  # of a float32's exponents
_SMALLEST = 2.0**-126


@COMPRESSORS.register("natural", "natural_compression")
class Natural(Compressor):
    """Round each value at random to one of the two powers of two around it: Horváth et al., "Natural Compression", MSML 2022.

    A value takes 9 bits: a sign, and the exponent of a float32. ω = 1/8, so E‖Q(v)‖² <= 9/8‖v‖²; but a value just above a power of
    two may become twice as large, so D_Q = 2. Values below 2^-126 become that or 0; values of 2^128 or more become infinite.
    """

    def nonzeros(self, dimension: int) -> float:
        """Return d."""
        return float(dimension)

    def omega(self, dimension: int) -> float:
        """Return 1/8."""
        return 1 / 8

    def norm_bound(self, dimension: int) -> float:
        """Return 2."""
        return 2.0

    def length(self, dimension: int, dtype: torch.dtype) -> int:
        """Return the size of d codes."""
        return packed_length(dimension, _BITS)

    def encode(self, vector: Tensor, payload: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Round at random, such that the mean is the value itself."""
        kind = np.float32 if vector.dtype == torch.float32 else np.float64
        drawn = torch.from_numpy(round_.rng("rounding", client).random(len(vector), kind)).to(vector.device)
        sizes = vector.abs()
        parts, exponents = torch.frexp(sizes)  # a size is part·2^exponent with part in [1/2, 1)
        codes = exponents.long().add_(_BIAS - 1).add_(drawn < parts.mul_(2).sub_(1))
        codes = torch.where(sizes < _SMALLEST, (drawn < sizes / _SMALLEST).long(), codes.clamp_(max=_INFINITE))
        codes.masked_fill_(~sizes.isfinite(), _INFINITE)
        pack(codes.add_(vector.signbit(), alpha=1 << (_BITS - 1)), _BITS, payload)

    def decode(self, payload: Tensor, vector: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Take the codes for the first bits of float32 values."""
        codes = unpack(payload, len(vector), _BITS)
        vector.copy_((codes << _MANTISSA).int().view(torch.float32))
