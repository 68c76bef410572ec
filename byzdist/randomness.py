"""Counter-based randomness: every draw is keyed by what it is for, so no draw depends on the order of events."""

import zlib
from functools import lru_cache

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

_WORD = 2**64 - 1


class _Key(ISeedSequence):
    """A key in the form of a seed for Philox, because Philox given a key first asks the system for randomness that it does not use."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> NDArray[np.uint64]:
        """Return the key."""
        return self._words


@lru_cache(maxsize=1024)
def _key(seed: int, purpose: str) -> _Key:
    return _Key(np.array([seed & _WORD, zlib.crc32(purpose.encode())], dtype=np.uint64))


def stream(seed: int, purpose: str, client: int = 0, round_: int = 0) -> np.random.Generator:
    """Return the generator of one draw: the same four keys give the same numbers in every process.

    Philox is counter-based: seed and purpose form its key, client and round the upper words of its counter, and the two lower
    words count, so that no two streams overlap within 2**128 numbers.
    """
    counter = np.array((0, 0, client, round_), np.uint64)
    return np.random.Generator(np.random.Philox(_key(seed, purpose), counter=counter))  # type: ignore[arg-type]  # the stub knows only SeedSequence
