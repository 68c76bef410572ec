"""What whoever starts a run from Python wants of it while it goes on."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

from byzdist.reporting.metrics import Metrics
from byzdist.reporting.record import RoundRecord
from byzdist.runtime.recording import Watching


@dataclass(frozen=True)
class Caller:
    """What the server's process owes to whoever called it.

    Attributes:
        on_round: gets a copy of each round's record, and returns whether the run is to end after that round.
        shows_progress: whether rounds and the end are shown on standard output.
        lives_on: whether the process goes on after the run: a notebook, or a script.
    """

    on_round: Callable[[RoundRecord], bool] | None = None
    shows_progress: bool = True
    lives_on: bool = False

    def watchers(self, stop: Callable[[], None]) -> list[Watching]:
        """Return what tells the caller of each round; ``stop`` ends the run."""
        if (on_round := self.on_round) is None:
            return []

        def tell(record: RoundRecord, metrics: Metrics) -> None:
            if on_round(copy.deepcopy(record)):
                stop()

        return [tell]


COMMAND_LINE = Caller()
