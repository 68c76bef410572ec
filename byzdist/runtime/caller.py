"""What the code that called a run wants: a function for each round, progress, a process that continues."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

from byzdist.reporting.metrics import Metrics
from byzdist.reporting.record import RoundRecord
from byzdist.runtime.recording import Watching


@dataclass(frozen=True)
class Caller:
    """The options that the caller of a run sets, for the server's process.

    Attributes:
        on_round: called with a copy of each round's record; it returns whether the run must end after that round.
        shows_progress: whether to show rounds and the end on standard output.
        lives_on: whether the process continues after the run, as a notebook or a script does.
    """

    on_round: Callable[[RoundRecord], bool] | None = None
    shows_progress: bool = True
    lives_on: bool = False

    def watchers(self, stop: Callable[[], None]) -> list[Watching]:
        """Return the watcher that calls ``on_round`` after each round, if there is one; ``stop`` ends the run."""
        if (on_round := self.on_round) is None:
            return []

        def tell(record: RoundRecord, metrics: Metrics) -> None:
            if on_round(copy.deepcopy(record)):
                stop()

        return [tell]


COMMAND_LINE = Caller()
