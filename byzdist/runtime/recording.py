"""What follows a round: an evaluation if one is due, its record in the metrics, and calls to those who watch."""

import time
from collections.abc import Callable, Sequence

from torch import Tensor

from byzdist.config.schema import Config
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.record import RoundRecord

Watching = Callable[[RoundRecord, Metrics], None]


class Stopwatch:
    """Measures the stages of rounds, each from the end of the one before; a round begins where the one before ended.

    Attributes:
        seconds: of the stages of this round, by name.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = self._now = clock()
        self.seconds: dict[str, float] = {}

    def end(self, stage: str) -> None:
        """Note that a stage ends now."""
        before, self._now = self._now, self._clock()
        self.seconds[stage] = self._now - before

    def end_round(self) -> dict[str, float]:
        """Return the seconds of the round, with the total; the next round begins."""
        before, self._began = self._began, self._clock()
        self._now, seconds, self.seconds = self._began, self.seconds, {}
        return seconds | {"total": self._began - before}


class Recorder:
    """Completes the record of each round and passes it on.

    Args:
        evaluate: maps x to loss, gap, grad_norm and the task's metrics, as far as they are defined.
        watchers: are told of each record.
        judges: are then told of each record and its model, and may end the run by an exception.
        complete: adds to each record what else was measured, before it is passed on.
    """

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        evaluate: Callable[[Tensor], dict[str, float]],
        watchers: Sequence[Watching],
        judges: Sequence[Callable[[RoundRecord, Tensor], None]] = (),
        complete: Callable[[RoundRecord], None] | None = None,
    ) -> None:
        self._every, self._last = config.evaluate.every, config.rounds
        self.metrics, self._evaluate, self._watchers, self._judges = metrics, evaluate, watchers, judges
        self._complete = complete

    def add(self, record: RoundRecord, x: Tensor, clock: Stopwatch) -> None:
        """Record a round whose model is x."""
        if record.round % self._every == 0 or record.round == self._last:
            record.evaluation = self._evaluate(x)
            clock.end("evaluate")
        if self._complete is not None:
            self._complete(record)
        record.seconds = clock.end_round()
        self.metrics.add(record)
        for watcher in self._watchers:
            watcher(record, self.metrics)
        for judge in self._judges:
            judge(record, x)
