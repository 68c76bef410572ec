"""Who takes part in a round.

An availability model is a function that says which clients can be drawn in a round. Only the server calls it, more than once and
perhaps ahead of time: it must depend on its arguments alone, and draw with ``round_.rng``.

Args:
    round_: the round; its cohort is not drawn yet.
    clients: n.

Returns:
    Client ids out of 0..n-1, ascending and each once, an integer array [at most n] that may be empty; or None for all of them.

Raises:
    Exception: any exception ends the run. What can be checked before the run belongs in a check, see `byzdist.registry.checks_run`.

Example:
    >>> import numpy as np
    >>> from byzdist.rounds import Round
    >>> def in_shifts(round_: Round, clients: int, *, shifts: int = 2) -> np.ndarray:
    ...     return np.arange(round_.number % shifts, clients, shifts)
    >>> in_shifts(Round(number=3, seed=0), 6)
    array([1, 3, 5])
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le

from byzdist.errors import ConfigError
from byzdist.host.files import read_text
from byzdist.registry import Registry, RunFacts, Spec, checks_run
from byzdist.rounds import Round

_LARGEST_TRACE = 1 << 30  # bytes
AVAILABILITY: Registry[Callable[..., np.ndarray | None]] = Registry("availability model", "round_", "clients")


def draw_cohort(round_: Round, clients: int, size: int, among: np.ndarray | None = None) -> np.ndarray:
    """Draw ``size`` of the client ids 0..n-1 uniformly without replacement, ascending [BRPP Alg. 1, line 4].

    ``among`` narrows the choice to some of the ids, ascending; all of them are drawn if they are fewer than ``size``.
    """
    candidates = clients if among is None else len(among)
    if size >= candidates:
        return np.arange(clients) if among is None else among
    drawn = np.sort(round_.rng("cohort").choice(candidates, size, replace=False))
    return drawn if among is None else among[drawn]


@AVAILABILITY.register("always")
def always(round_: Round, clients: int) -> None:
    """Every client can be drawn in every round."""


@AVAILABILITY.register("bernoulli")
def bernoulli(round_: Round, clients: int, *, q: Annotated[float, Gt(0), Le(1)]) -> np.ndarray:
    """Each client can be drawn in each round with probability q, independently of everything else."""
    return np.flatnonzero(round_.rng("availability").random(clients) < q)


def _can_be_read(run: RunFacts, key: str, *, path: str) -> None:
    read_trace(path, run.clients)


@AVAILABILITY.register("trace")
@checks_run(_can_be_read)
def trace(round_: Round, clients: int, *, path: str) -> np.ndarray:
    """A file says who can be drawn: a line a round, client ids with blanks between; after the last it starts over."""
    lines = read_trace(path, clients)
    return lines[round_.number % len(lines)]


@lru_cache(maxsize=1)
def read_trace(path: str, clients: int) -> list[np.ndarray]:
    """Return the clients of each line of a trace file, ascending.

    Raises:
        ConfigError: if the file cannot be read, is empty, or names something that is not a client.
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


class Draws:
    """Draws rounds: which are full ones, and who is asked. The next round's can be drawn ahead, while the server waits.

    Args:
        is_full: the method's, see `Method.is_full`.
        sizes: the size of a sampled round's cohort and of a full one's, C and Ĉ.
        availability: the configuration's ``clients.availability``.
        clients: n.
    """

    def __init__(
        self,
        seed: int,
        is_full: Callable[[Round], bool],
        sizes: tuple[int, int],
        availability: Spec,
        clients: int,
    ) -> None:
        self._seed, self._is_full, self._sizes, self._clients = seed, is_full, sizes, clients
        self._available = AVAILABILITY.bind(availability, "clients.availability")
        self._next = Round(-1, seed)

    def draw_ahead(self, number: int) -> None:
        """Draw a round before it is asked for."""
        self._next = self._draw(number, self._is_full(Round(number, self._seed)), None)

    def is_full(self, number: int) -> bool:
        """Return c_k: whether the round is drawn to be a full one."""
        drawn = self._next.number == number
        return self._next.full if drawn else self._is_full(Round(number, self._seed))

    def draw(self, number: int, full: bool, reachable: np.ndarray | None = None) -> Round:
        """Return the round with its cohort, from the ``reachable`` clients (None: all of them) that can take part in it."""
        if reachable is None and (self._next.number, self._next.full) == (number, full):
            return self._next
        return self._draw(number, full, reachable)

    def _draw(self, number: int, full: bool, reachable: np.ndarray | None) -> Round:
        round_ = Round(number, self._seed, full)
        among = self._available(round_, self._clients)
        if among is None:
            among = reachable
        elif reachable is not None:
            among = np.intersect1d(among, reachable, assume_unique=True)
        return Round(number, self._seed, full, draw_cohort(round_, self._clients, self._sizes[full], among))
