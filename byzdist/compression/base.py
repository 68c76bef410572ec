"""The interface of a compressor: it turns values into bytes and back, and states the constants that the theory needs."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from byzdist.registry import Registry
from byzdist.rounds import Memory, Round

COMPRESSORS: Registry[Callable[..., "Compressor"]] = Registry("compressor")


class Compressor(ABC):
    """An unbiased map Q: E Q(v) = v, E‖Q(v) - v‖² <= ω‖v‖², ‖Q(v)‖ <= D_Q‖v‖ [BRPP Def. 2.2].

    All random draws of Q are keyed by round and client, so the server repeats them without any message.

    Example:
        >>> import torch
        >>> from byzdist.compression import Compressor
        >>> from byzdist.rounds import Round
        >>> class EveryOther(Compressor):
        ...     "Send the even or the odd coordinates, doubled: ω = 1, D_Q = 2. The dimension must be even."
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
    in_place = False  # whether a payload is the vector's values themselves, so that neither end needs a copy
    independent = True  # whether Q draws independently for each client, as the theorems want
    unbiased = True  # whether E Q(v) = v; a biased one needs a method with `allows_biased`, or error feedback

    @abstractmethod
    def nonzeros(self, dimension: int) -> float:
        """Return ζ_Q, the expected number of nonzero values of Q(v) for v of ``dimension`` values: between 0 and ``dimension``."""

    def omega(self, dimension: int) -> float | None:
        """Return ω in E‖Q(v) - v‖² <= ω‖v‖² for v of ``dimension`` values; None if it is not known."""
        return None

    def norm_bound(self, dimension: int) -> float | None:
        """Return D_Q in ‖Q(v)‖ <= D_Q‖v‖ for v of ``dimension`` values; None if it is not known."""
        return None

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
            vector: v, d values, which must not be changed; with ``in_place`` the payload may be their own memory.
            payload: `length` bytes (uint8) on the vector's device, with undefined content; all of them are sent.
            round_: the round, for keyed randomness.
            client: the sender, 0..n-1.
            memory: the compressor's memory of this client in the client's process, to be read and written; empty at first.

        Raises:
            Exception: any exception ends the process that hosts the client.
        """

    @abstractmethod
    def decode(self, payload: Tensor, vector: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Decode ``payload`` into the d values of ``vector``, in the server.

        It must not raise, whatever the payload holds: a Byzantine client chooses those bytes, and an error here ends the run.

        Args:
            payload: `length` bytes (uint8), which must not be changed. If they decode to NaN or infinity, the reply is not used.
            vector: d values on the payload's device, with undefined content; every one must be written.
            round_: the round, as in `encode`.
            client: the sender, as in `encode`.
            memory: the compressor's memory of this client in the server. Changes are kept only if all decoded values are finite.
                Replace its tensors instead of writing to them.
        """
