"""Classification: to which of several classes a sample belongs."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from byzdist.problem.task import TASKS, Batch, Metric, Model, Task, flat_logits, output_of


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy; logits [b, classes], or [b] of the second of two classes; labels [b]."""
    if logits.ndim == 1:  # log(1 + exp(-y s)) with y = ±1
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


def correct(model: Model, batch: Batch) -> tuple[float, float]:
    """Return how many samples get the right class, and how many there are."""
    inputs, labels = batch
    logits = flat_logits(output_of(model, inputs))
    predicted = logits > 0 if logits.ndim == 1 else logits.argmax(1)
    return float((predicted == labels).sum()), len(labels)


def _loss(model: Model, batch: Batch) -> Tensor:
    inputs, labels = batch
    return cross_entropy(flat_logits(output_of(model, inputs)), labels)


@TASKS.register("classification")
def classification(*, inputs: Literal["numbers", "tokens"] = "numbers") -> Task:
    """Cross-entropy and accuracy; targets are the classes 0, 1, ... [N], outputs logits [b, classes], or [b] for two classes.

    ``inputs: tokens`` leaves integer features integers, for models that begin with an embedding.
    """
    return Task(_loss, {"accuracy": Metric(correct)}, "classes", inputs)


CLASSIFICATION = classification()
"""What a run learns unless it says otherwise."""
