"""What the clients of a worker will read next, said before they do, so that lazy data can be read ahead."""

from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from byzdist.participation import Draws
from byzdist.problem.client_data import Wanted
from byzdist.rounds import Round
from byzdist.runtime.claims import Claims
from byzdist.runtime.experiment import Experiment


class Foresight:
    """Tells the oracle of a worker what its clients will read: in a round as it is, and in the next one as the seed draws it.

    That draw is the server's, too, unless clients are out of reach or a full round is called; then what was read ahead is thrown away.

    Args:
        hosted: the clients that live here.
    """

    def __init__(self, experiment: Experiment, hosted: Collection[int]) -> None:
        config, method = experiment.config, experiment.method
        assert method.full_cohort is not None
        self._oracle, self._method, self._claims = experiment.oracle, method, Claims.of(experiment)
        self._hosted, self._last = hosted, config.rounds
        sizes, clients = (method.cohort, method.full_cohort), config.clients
        self._draws: Draws | None = None
        if clients.availability.name == "always":  # the server alone may ask another model
            self._draws = Draws(config.seed, method.is_full, sizes, clients.availability, clients.count)

    @classmethod
    def of(cls, experiment: Experiment, hosted: Collection[int]) -> "Foresight | None":
        """Return the foresight of a worker; None where nothing is read ahead."""
        ahead = any(reader.ahead for reader in experiment.data.readers())
        return cls(experiment, hosted) if ahead else None

    def tell(self, round_: Round, clients: Iterable[int]) -> None:
        """Say what these clients will read in a round that begins, and then what will be read in the next one."""
        self._oracle.expect(chain(self._wanted(round_, clients), self._next(round_.number + 1)))

    def _next(self, number: int) -> Iterator[Wanted]:
        if self._draws is not None and number <= self._last:
            round_ = self._draws.draw(number, self._draws.is_full(number))
            yield from self._wanted(round_, [client for client in round_.cohort.tolist() if client in self._hosted])

    def _wanted(self, round_: Round, clients: Iterable[int]) -> Iterator[Wanted]:
        for client in clients:
            yield round_, client, self._method.positions(round_, client, self._oracle.samples(client))
            if self._claims is not None and self._claims.are_due(round_):
                yield round_, client, None
