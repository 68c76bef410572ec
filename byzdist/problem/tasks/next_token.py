"""Language models: which token comes next."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from byzdist.problem.task import TASKS, Batch, Metric, Model, Task, output_of

IGNORED = -100
"""The target of a position that does not count, such as padding; torch's own number for it."""


def _entropy(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    tokens, targets = batch
    logits = output_of(model, tokens)
    total = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, (targets != IGNORED).sum()


def _right(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    tokens, targets = batch
    return (output_of(model, tokens).argmax(-1) == targets).sum(), (targets != IGNORED).sum()


def _measured(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return _entropy(model, batch)


@TASKS.register("next_token", "language_model")
def next_token() -> Task:
    """Cross-entropy per token, perplexity and token accuracy; inputs and targets are token ids [N, T], outputs [b, T, vocabulary].

    Targets of -100 do not count.
    """
    metrics = {"perplexity": Metric(_measured, "lower", math.exp), "accuracy": Metric(_right)}
    return Task(_entropy, metrics, "tokens", "tokens")
