"""When a run has diverged, and which of its models was the last good one."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from byzdist.config.schema import Config
from byzdist.errors import RunError
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.record import RoundRecord
from byzdist.storage.export import save_model

LIMIT = 1000.0
"""A model is good while its loss is a finite number of at most LIMIT times the loss at the start, or LIMIT if that is below 1."""
_GROWN = 10.0  # times the loss at the start: worth a warning
log = logging.getLogger(__name__)


class Diverged(RunError):
    """The model is not finite any more, or so bad that later rounds are unlikely to mend it."""


class Guard:
    """Judges the model at each evaluation and keeps the last good one.

    Args:
        config: says what to do (``on_divergence``): stop, or train on.
        metrics: has the loss at the start.
    """

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._stops, self._metrics = config.on_divergence == "stop", metrics
        self._unclipped = config.method.parameters.get("clip") == "none"
        self._good: Tensor | None = None
        self.round = -1  # the round of the last good model
        self._has_warned = False
        self.is_good = True  # as far as is known

    def resume(self, round_: int, x: Tensor) -> None:
        """Regard a checkpoint's model as good if the last evaluation before it was."""
        self._judge(round_, self._metrics.last, x)

    def watch(self, record: RoundRecord, x: Tensor) -> None:
        """Judge the model after a round, if its record has an evaluation.

        Raises:
            Diverged: if the model is not good and the configuration says to stop.
        """
        self._judge(record.round, record.evaluation, x)
        self._warn_of_growth(record)
        if not self.is_good and self._stops:
            raise Diverged(self.describe(record.round))

    def _warn_of_growth(self, record: RoundRecord) -> None:
        """Warn once of a loss that has grown far beyond the one at the start, before the run counts as diverged."""
        loss, start = record.evaluation.get("loss"), self._metrics.first_loss
        if self._has_warned or loss is None or start is None or not loss > _GROWN * max(abs(start), 0.1):
            return
        self._has_warned = True
        log.warning(
            "round %d: the loss is %.4g and was %.4g at the start. If it keeps growing, %s method.step_size lower.",
            record.round,
            loss,
            start,
            "set method.clip to a number (1.0, say), or" if self._unclipped else "set",
        )

    def _judge(self, round_: int, evaluation: Mapping[str, float], x: Tensor) -> None:
        loss = evaluation.get("loss")
        if loss is None:
            return
        start = self._metrics.first_loss
        bound = LIMIT * max(1.0, abs(start)) if start is not None and math.isfinite(start) else LIMIT
        self.is_good = math.isfinite(loss) and loss <= bound
        if self.is_good:
            self._good = x.clone() if self._good is None else self._good.copy_(x)
            self.round = round_

    def describe(self, round_: int) -> str:
        """Return why the run has diverged, what to set, and what is kept."""
        loss, start = self._metrics.last["loss"], self._metrics.first_loss
        remedy = "Set method.clip to a number (1.0, say), or" if self._unclipped else "Set"
        kept = f"; the model of round {self.round} is kept" if self._good is not None else ""
        return (
            f"round {round_}: the run has diverged: its loss is {loss:.4g} and was {start:.4g} at the start. {remedy} "
            f"method.step_size lower, or on_divergence=continue to train on{kept}."
        )

    def verdict(self, status: str, round_: int) -> tuple[str, str]:
        """Return status and reason of a run that has ended: one that would have finished with a bad model has diverged."""
        return ("diverged", self.describe(round_)) if status == "finished" and not self.is_good else (status, "")

    def save(self, model: nn.Module, x: Tensor, folder: Path, round_: int) -> None:
        """Write x, the model after a round. If it is bad, write the last good one instead, if there was one."""
        if self.is_good:
            save_model(model, x, folder, round_)
        elif self._good is not None:
            save_model(model, self._good, folder, self.round)
