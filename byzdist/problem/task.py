"""What is learnt: the loss of a batch, and the metrics by which people judge a model."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

from byzdist.registry import Registry

Model = Callable[..., Any]
"""The module, as a loss or metric calls it."""
Batch = Any
"""A batch of a data set: (features, targets) of tensors, or what a user's own ``collate`` returns."""
Total = Tensor | float
Measure = Callable[[Model, Batch], tuple[Total, Total]]
Better = Literal["higher", "lower"]
"""In which direction a model is better."""

TASKS: Registry[Callable[..., "Task"]] = Registry("task")


@dataclass(frozen=True)
class Metric:
    """A quotient of two sums over samples, such as correct answers and answers.

    Attributes:
        measure: (model, batch) -> (sum, count) over the batch, each a number or a tensor of one; arguments as for the loss of a `Task`.
        better: in which direction a model is better.
        finish: maps the quotient to what is reported.
    """

    measure: Measure
    better: Better = "higher"
    finish: Callable[[float], float] = float

    def value(self, total: float, count: float) -> float:
        """Return the metric from its sums; NaN if nothing was counted, or if it overflows."""
        try:
            return self.finish(total / count)
        except (ZeroDivisionError, OverflowError, ValueError):
            return math.nan


@dataclass(frozen=True)
class Task:
    """A loss and the metrics that are measured of a model.

    Attributes:
        loss: (model, batch) -> the mean over the batch's samples, a tensor of one number that has a gradient; or (sum, count), where
            the mean is not over samples (but over tokens, say): gradients over several batches are then the quotient of all
            sums and all counts. A batch is (features [b, ...], targets [b, ...]) on the model's device.
        metrics: by name. The model that `loss` and `measure` get remembers its last output: calling it twice costs nothing.
        target: what arrays of targets must be: "classes" for integers 0, 1, ... [N], "numbers" [N] or [N, k], "tokens" for integers
            of any shape, "labels" for one 0 or 1 per label [N, L], "own" for anything.
        inputs: "numbers": features are cast to the run's dtype; "tokens": integers stay integers.

    Example:
        >>> import torch
        >>> from byzdist import Metric, Task
        >>> def distance(model, batch):
        ...     features, targets = batch
        ...     return (model(features)[:, 0] - targets).abs()
        >>> def close(model, batch):
        ...     return (distance(model, batch) < 0.5).sum(), len(batch[1])
        >>> task = Task(lambda model, batch: distance(model, batch).mean(), {"close": Metric(close)}, target="numbers")
        >>> model, batch = torch.nn.Identity(), (torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0]))
        >>> task.loss(model, batch)
        tensor(1.)
        >>> total, count = task.metrics["close"].measure(model, batch)
        >>> task.metrics["close"].value(float(total), count)
        0.5
    """

    loss: Callable[[Model, Batch], Any]
    metrics: Mapping[str, Metric] = field(default_factory=lambda: MappingProxyType({}))
    target: Literal["classes", "numbers", "tokens", "labels", "own"] = "own"
    inputs: Literal["numbers", "tokens"] = "numbers"


def output_of(model: Model, inputs: Any) -> Tensor:
    """Return the tensor that a module gives: its output, or the ``logits`` or the first part of an output that has more than that."""
    output = model(inputs)
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(f"the model returns a {type(output).__name__}, without a tensor `logits` or a first tensor")


def flat_logits(logits: Tensor) -> Tensor:
    """Return logits [b, 1] as [b]: one number for each sample."""
    return logits.squeeze(1) if logits.ndim == 2 and logits.shape[1] == 1 else logits
