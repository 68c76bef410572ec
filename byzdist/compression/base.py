"""What a compressor is: values in, bytes out, and the constants that the theory asks for."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from byzdist.registry import Registry
from byzdist.rounds import Memory, Round

COMPRESSORS: Registry[Callable[..., "Compressor"]] = Registry("compressor")


class Compressor(ABC):
    """An unbiased map Q: E Q(v) = v, E‖Q(v) - v‖² <= ω‖v‖², ‖Q(v)‖ <= D_Q‖v‖ [BRPP Def. 2.2].

    Whatever is random in Q is keyed by round and client, so the server knows it without being told.
    """

    remembers = False  # whether `encode` or `decode` uses its memory
    in_place = False  # whether a payload is simply the vector's values, so that neither end needs a copy

    @abstractmethod
    def nonzeros(self, dimension: int) -> float:
        """Return ζ_Q, the expected number of non-zeros of Q(v)."""

    @abstractmethod
    def length(self, dimension: int, dtype: torch.dtype) -> int:
        """Return the bytes of a payload."""

    @abstractmethod
    def encode(self, vector: Tensor, payload: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Write Q(vector) into ``payload``, ``length`` bytes; ``memory`` is the client's, in the process where it lives."""

    @abstractmethod
    def decode(self, payload: Tensor, vector: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Write the d values that ``payload`` stands for into ``vector``.

        ``memory`` is the server's of this client. What is put there counts only if the values turn out to be finite; tensors that
        it holds are replaced, not written to.
        """
