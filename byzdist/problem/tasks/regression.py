"""Regression: one number for each sample, or several."""

import math
from typing import Literal

from torch import Tensor

from byzdist.problem.task import TASKS, Batch, Metric, Model, Task, flat_logits, output_of


def _predicted(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    inputs, targets = batch
    output = output_of(model, inputs)
    targets = targets.to(output.dtype)
    return (flat_logits(output), targets) if targets.ndim == 1 else (output, targets)


def _loss(model: Model, batch: Batch) -> Tensor:
    predicted, targets = _predicted(model, batch)
    return (predicted - targets).square().mean()  # mse_loss has no forward-mode derivative, which the optimum needs


def _absolute(model: Model, batch: Batch) -> tuple[float, float]:
    predicted, targets = _predicted(model, batch)
    return float((predicted - targets).abs().sum()), targets.numel()


def _squares(model: Model, batch: Batch) -> tuple[float, float]:
    predicted, targets = _predicted(model, batch)
    return float((predicted - targets).square().sum()), targets.numel()


@TASKS.register("regression")
def regression(*, inputs: Literal["numbers", "tokens"] = "numbers") -> Task:
    """Mean squared error; mae and rmse are reported. Targets are numbers [N] or [N, k], outputs [b], [b, 1] or [b, k]."""
    metrics = {"mae": Metric(_absolute, "lower"), "rmse": Metric(_squares, "lower", math.sqrt)}
    return Task(_loss, metrics, "numbers", inputs)
