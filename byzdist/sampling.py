"""Who takes part in a round."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le

from byzdist.errors import ConfigError
from byzdist.files import read_text
from byzdist.randomness import stream
from byzdist.registry import Registry

_LARGEST_TRACE = 1 << 30  # bytes
AVAILABILITY: Registry[Callable[..., np.ndarray | None]] = Registry("availability model", "seed", "round_", "clients")
"""Each returns the ids of the clients that can be drawn in a round, ascending, or None for all of them."""


def draw_cohort(seed: int, round_: int, clients: int, size: int, among: np.ndarray | None = None) -> np.ndarray:
    """Draw ``size`` of the client ids 0..n-1 uniformly without replacement, ascending [BRPP Alg. 1, line 4].

    ``among`` narrows the choice to some of the ids, ascending; where they are fewer than ``size``, all of them are
    drawn.
    """
    candidates = clients if among is None else len(among)
    if size >= candidates:
        return np.arange(clients) if among is None else among
    drawn = np.sort(stream(seed, "cohort", 0, round_).choice(candidates, size, replace=False))
    return drawn if among is None else among[drawn]


@AVAILABILITY.register("always")
def always(seed: int, round_: int, clients: int) -> None:
    """Every client can be drawn in every round."""


@AVAILABILITY.register("bernoulli")
def bernoulli(seed: int, round_: int, clients: int, *, q: Annotated[float, Gt(0), Le(1)]) -> np.ndarray:
    """Each client can be drawn in each round with probability q, independently of everything else."""
    return np.flatnonzero(stream(seed, "availability", 0, round_).random(clients) < q)


@AVAILABILITY.register("trace")
def trace(seed: int, round_: int, clients: int, *, path: str) -> np.ndarray:
    """A file says who can be drawn: a line a round, client ids with blanks between; after the last it starts over."""
    lines = read_trace(path, clients)
    return lines[round_ % len(lines)]


@lru_cache(maxsize=1)
def read_trace(path: str, clients: int) -> list[np.ndarray]:
    """Return the clients of each line of a trace file, ascending.

    Raises:
        ConfigError: if the file cannot be read, is empty, or names something that is no client.
    """
    key = "clients.availability.path"
    try:
        lines = read_text(Path(path), _LARGEST_TRACE, follow=True).splitlines()
        rounds = [np.unique(np.array(line.split(), dtype=np.int64)) for line in lines]
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path!r}: {error.strerror}.") from None
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{key}: {path!r} holds more than client ids and blanks: {error}.") from None
    if not rounds:
        raise ConfigError(f"{key}: {path!r} is empty; give at least one line of client ids.")
    for number, ids in enumerate(rounds, 1):
        if len(ids) and not 0 <= ids[0] <= ids[-1] < clients:
            raise ConfigError(f"{key}: line {number} of {path!r} names clients other than 0..{clients - 1}.")
    return rounds
