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

    All random draws of Q are keyed by round and client, so the server draws the same without being told.

    Example:
        >>> import torch
        >>> from byzdist.compression import Compressor
        >>> from byzdist.rounds import Round
        >>> class EveryOther(Compressor):
        ...     "Send the even or the odd coordinates, doubled, of an even number of them: ω = 1, D_Q = 2."
        ...
        ...     def nonzeros(self, dimension):
        ...         return dimension / 2
        ...
        ...     def length(self, dimension, dtype):
        ...         return dimension // 2 * dtype.itemsize
        ...
        ...     def _kept(self, vector, round_, client):
        ...         return vector[round_.rng("half", client).integers(2) :: 2]
        ...
        ...     def encode(self, vector, payload, round_, client, memory):
        ...         payload.view(vector.dtype).copy_(2 * self._kept(vector, round_, client))
        ...
        ...     def decode(self, payload, vector, round_, client, memory):
        ...         self._kept(vector.zero_(), round_, client).copy_(payload.view(vector.dtype))
        >>> compressor, round_, vector = EveryOther(), Round(number=3, seed=0), torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> payload, received = torch.empty(compressor.length(4, vector.dtype), dtype=torch.uint8), torch.empty(4)
        >>> compressor.encode(vector, payload, round_, 5, {})
        >>> compressor.decode(payload, received, round_, 5, {})
        >>> received
        tensor([2., 0., 6., 0.])
    """

    remembers = False  # whether `encode` or `decode` uses its memory
    in_place = False  # whether a payload is simply the vector's values, so that neither end needs a copy

    @abstractmethod
    def nonzeros(self, dimension: int) -> float:
        """Return ζ_Q, the expected number of non-zeros of Q(v) for a v of ``dimension`` values, between 0 and ``dimension``."""

    @abstractmethod
    def length(self, dimension: int, dtype: torch.dtype) -> int:
        """Return the size of a payload, the same for every vector, client and round.

        Args:
            dimension: d, at least 1.
            dtype: of the vectors.

        Returns:
            Bytes, at least 1.
        """

    @abstractmethod
    def encode(self, vector: Tensor, payload: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Write Q(vector) into ``payload``, in the client's process.

        Args:
            vector: v, d values, which are not to be changed; with ``in_place`` they may already lie in the payload.
            payload: `length` bytes (uint8) on the vector's device, which hold anything before; all of them are sent.
            round_: the round, for keyed randomness.
            client: whose message it is, 0..n-1.
            memory: what the compressor remembers of the client here, to be read and written; empty at first.

        Raises:
            Exception: any exception ends the process that hosts the client.
        """

    @abstractmethod
    def decode(self, payload: Tensor, vector: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Write the d values that ``payload`` stands for into ``vector``, in the server.

        It must not raise, whatever the payload holds: a Byzantine client chooses those bytes, and an error here ends the run.

        Args:
            payload: `length` bytes (uint8), which are not to be changed. Where they give NaN or infinity, the reply is not used.
            vector: d values on the payload's device, which hold anything before; every one is to be written.
            round_: the round, as in `encode`.
            client: the sender, as in `encode`.
            memory: what the compressor remembers of the client in the server. What is put there counts only if all values are
                finite; tensors that it holds are replaced, not written to.
        """
