"""Several labels: which of them a sample has, none, one or more."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from byzdist.problem.task import TASKS, Batch, Metric, Model, Task, output_of


def _loss(model: Model, batch: Batch) -> Tensor:
    inputs, targets = batch
    logits = output_of(model, inputs)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def _f1(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    inputs, targets = batch
    predicted, held = output_of(model, inputs) > 0, targets > 0
    twice_right = 2 * (predicted & held).sum()
    return twice_right, predicted.sum() + held.sum()


def _right(model: Model, batch: Batch) -> tuple[Tensor, int]:
    inputs, targets = batch
    return ((output_of(model, inputs) > 0) == (targets > 0)).sum(), targets.numel()


@TASKS.register("multi_label")
def multi_label(*, inputs: Literal["numbers", "tokens"] = "numbers") -> Task:
    """Binary cross-entropy, the mean over all labels; F1 over all labels and samples (micro) and accuracy.

    Targets are 0 or 1 for each label [N, L], outputs logits [b, L].
    """
    return Task(_loss, {"f1": Metric(_f1), "accuracy": Metric(_right)}, "labels", inputs)
