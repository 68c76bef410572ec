"""Which round comes next: a full one or a sampled one, and who is asked."""

from dataclasses import dataclass

from byzdist.participation import Draws
from byzdist.rounds import Round
from byzdist.runtime.attendance import Attendance
from byzdist.runtime.experiment import Experiment
from byzdist.runtime.full_rounds import FullRounds
from byzdist.transport.base import ServerEnd


@dataclass(frozen=True)
class NextRound:
    """A round that is to come.

    Attributes:
        called: why it is a full one out of turn; None if it is not.
        postponed: why it is a sampled one although a full one is due.
    """

    round: Round
    called: str | None = None
    postponed: str | None = None


class RoundPlanner:
    """Decides on rounds: the seed draws c_k and the cohort, and ``full_rounds`` calls full rounds out of turn."""

    def __init__(
        self, experiment: Experiment, transport: ServerEnd, full_rounds: FullRounds, attendance: Attendance
    ) -> None:
        self._transport, self._full_rounds, self._attendance = transport, full_rounds, attendance
        config, method = experiment.config, experiment.method
        assert method.full_cohort is not None
        sizes, clients = (method.cohort, method.full_cohort), config.clients
        self._clients, self._draws_available = clients.count, config.transport.draw == "available"
        self._draws = Draws(config.seed, method.is_full, sizes, clients.availability, clients.count)

    def start(self) -> NextRound:
        """Return the full round 0, which gives g^0."""
        return NextRound(self._draw(0, True))

    def draw_ahead(self, number: int) -> None:
        """Draw a round before it is asked for."""
        self._draws.draw_ahead(number)

    def plan(self, number: int, has_estimate: bool) -> NextRound:
        """Decide on a round; may wait for clients. Without an estimate every round is a full one."""
        drawn, called = self._draws.is_full(number), self._full_rounds.called(number)
        round_ = self._draw(number, not has_estimate or drawn or called is not None)
        if round_.full and has_estimate:
            exposed = self._attendance.exposed(round_.cohort.tolist(), {})
            if doubt := self._full_rounds.doubt(len(round_.cohort), exposed):
                return NextRound(self._draw(number, False), postponed=doubt)
        return NextRound(round_, called=None if drawn else called)

    def _draw(self, number: int, full: bool) -> Round:
        """Draw the cohort from the clients that the availability model lets take part and that, unless told otherwise, can be reached."""
        reachable = self._transport.available()
        if self._draws_available and len(reachable) < self._clients:
            return self._draws.draw(number, full, reachable)
        return self._draws.draw(number, full)
