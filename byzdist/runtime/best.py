"""Early stopping: the best model so far by a metric, and whether the run still gets better."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from byzdist.config.schema import Stopping
from byzdist.errors import RunError
from byzdist.problem.task import Better
from byzdist.reporting.record import RoundRecord


class Best:
    """Keeps the best model, and says when a run has not got better for ``patience`` evaluations.

    Args:
        settings: which metric, and how long to wait for it.
        better: in which direction the metric is better.

    Attributes:
        x: the best model, d values; None before the first finite value.
        round: the round whose model x is.
    """

    def __init__(self, settings: Stopping, better: Better) -> None:
        self._settings, self._sign = settings, 1.0 if better == "lower" else -1.0
        self.x: Tensor | None = None
        self.round = -1
        self._value = math.nan
        self._waited = 0

    def watch(self, record: RoundRecord, x: Tensor) -> None:
        """Judge the model after a round, if its record has an evaluation.

        Raises:
            RunError: if the metric cannot be measured in this run, such as a gap whose optimum is not known.
        """
        if not record.evaluation:
            return
        metric = self._settings.metric
        if metric not in record.evaluation:
            raise RunError(f"stop.metric: {metric!r} is not known for this model and these data; use loss, say.")
        value = record.evaluation[metric]
        if self._improves(value):
            self.x = x.clone() if self.x is None else self.x.copy_(x)
            self.round, self._value, self._waited = record.round, value, 0
        else:
            self._waited += 1

    def _improves(self, value: float) -> bool:
        if self.x is None or not math.isfinite(value):
            return math.isfinite(value)
        return self._sign * (self._value - value) > self._settings.min_delta

    @property
    def reason(self) -> str:
        """Why the run is to stop, or "" while it is to go on."""
        if self._waited < self._settings.patience:
            return ""
        best = f"; it is {self._value:.6g} at round {self.round}" if self.x is not None else ""
        return f"stopped early: {self._settings.metric} has not got better in {self._waited} evaluations{best}"

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint keeps: the live tensor, and facts as JSON."""
        facts = {"round": self.round, "value": self._value if self.x is not None else None, "waited": self._waited}
        return {} if self.x is None else {"best": self.x}, {"best": facts}

    def resume(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], like: Tensor) -> None:
        """Restore what `state` returned; ``like`` is a model on the device of the run."""
        found = facts["best"]
        self.round, self._waited = found["round"], found["waited"]
        if "best" in tensors:
            self.x, self._value = tensors["best"].to(like.device, copy=True), found["value"]
