"""Error feedback: what a compressor leaves out of one message is added to the next."""

from typing import Any

import torch
from torch import Tensor

from byzdist.compression.base import COMPRESSORS, Compressor
from byzdist.errors import ConfigError
from byzdist.registry import RunFacts
from byzdist.rounds import Memory, Round

_ERROR = "error"


@COMPRESSORS.register("error_feedback", "ef", "ef14")
class ErrorFeedback(Compressor):
    """Send C(e + v) with the given compressor C and remember e + v - C(e + v) as the next e: Seide et al., Interspeech 2014.

    The client keeps e, at first 0, d values. Over time everything is sent: the vectors of T messages sum to those received plus the
    last e. So it may replace an unbiased compressor everywhere, but the theorems do not cover it: ω is not known.
    A message that is lost on the way stays lost, as without compression.
    """

    remembers = True

    def __init__(self, *, compressor: str | dict[str, Any]) -> None:
        self._inner: Compressor = COMPRESSORS.build(compressor, key="compression.compressor")

    @classmethod
    def check_run(cls, run: RunFacts, key: str, *, compressor: str | dict[str, Any]) -> None:
        """Refuse a wrong compressor, and one that remembers something itself."""
        spec = COMPRESSORS.check(compressor, f"{key}.compressor")
        COMPRESSORS.check_run(spec, run, f"{key}.compressor")
        if getattr(COMPRESSORS.get(spec.name), "remembers", False):
            raise ConfigError(
                f"{key}.compressor: {spec.name!r} remembers something itself; use one that does not, such as top_k."
            )

    def nonzeros(self, dimension: int) -> float:
        """Return the compressor's own ζ."""
        return self._inner.nonzeros(dimension)

    def length(self, dimension: int, dtype: torch.dtype) -> int:
        """Return the compressor's own length."""
        return self._inner.length(dimension, dtype)

    def encode(self, vector: Tensor, payload: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Encode e + v and keep the new e; after values that are not finite, which the server does not take, e is 0 again."""
        held = memory.get(_ERROR)
        total = vector.clone() if held is None else held.add_(vector)
        self._inner.encode(total, payload, round_, client, {})
        sent = torch.empty_like(total)
        self._inner.decode(payload, sent, round_, client, {})
        memory[_ERROR] = total.sub_(sent) if sent.isfinite().all() else total.zero_()

    def decode(self, payload: Tensor, vector: Tensor, round_: Round, client: int, memory: Memory) -> None:
        """Decode as the compressor itself does."""
        self._inner.decode(payload, vector, round_, client, {})
