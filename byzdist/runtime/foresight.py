"""Predicts what a worker's clients will read next, so that lazy data can be read ahead."""

from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from byzdist.participation import Draws
from byzdist.problem.client_data import Wanted
from byzdist.rounds import Round
from byzdist.runtime.claims import Claims
from byzdist.runtime.experiment import Experiment


class Foresight:
    """Tells a worker's oracle what its clients will read, in the current round and in the next one, which the seed determines.

    The server draws the same next round, unless clients are out of reach or it calls a full round. Then the batches that were read
    ahead are dropped.

    Args:
        hosted: the clients of this worker.
    """

    def __init__(self, experiment: Experiment, hosted: Collection[int]) -> None:
        config, method = experiment.config, experiment.method
        assert method.full_cohort is not None
        self._oracle, self._method, self._claims = experiment.oracle, method, Claims.of(experiment)
        self._hosted, self._last = hosted, config.rounds
        sizes, clients = (method.cohort, method.full_cohort), config.clients
        self._draws: Draws | None = None
        if clients.availability.name == "always":  # only the server may ask any other availability model
            self._draws = Draws(config.seed, method.is_full, sizes, clients.availability, clients.count)

    @classmethod
    def of(cls, experiment: Experiment, hosted: Collection[int]) -> "Foresight | None":
        """Return a worker's foresight, or None if nothing is read ahead."""
        ahead = any(reader.ahead for reader in experiment.data.readers())
        return cls(experiment, hosted) if ahead else None

    def tell(self, round_: Round, clients: Iterable[int]) -> None:
        """Tell the oracle what these clients will read in the round that begins, and then in the next one."""
        self._oracle.expect(chain(self._wanted(round_, clients), self._next(round_.number + 1)))

    def _next(self, number: int) -> Iterator[Wanted]:
        if self._draws is not None and number <= self._last:
            round_ = self._draws.draw(number, self._draws.is_full(number))
            yield from self._wanted(round_, [client for client in round_.cohort.tolist() if client in self._hosted])

    def _wanted(self, round_: Round, clients: Iterable[int]) -> Iterator[Wanted]:
        for client in clients:
            for seeding, positions in self._method.readings(round_, client, self._oracle.samples(client)):
                yield seeding, client, positions
            if self._claims is not None and self._claims.are_due(round_):
                yield round_, client, None
