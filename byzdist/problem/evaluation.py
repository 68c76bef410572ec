"""How good a model is: the loss f of the honest clients, its gradient, the gap to its minimum, the task's metrics."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from torch import Tensor

from byzdist.norms import norm
from byzdist.problem.client_data import ArrayData, Positions
from byzdist.problem.data import Dataset, Split
from byzdist.problem.loss import Loss
from byzdist.problem.objective import CountedObjective, Groups, Objective, is_counted, metrics, sample_groups
from byzdist.problem.task import Better, Task
from byzdist.randomness import stream

OF_ANY_TASK: Final[dict[str, Better]] = {"loss": "lower", "gap": "lower", "grad_norm": "lower"}
"""What can be measured of a model whatever is learnt, and in which direction it is better."""
NOTES: Final[dict[Better, str]] = {"higher": "", "lower": " (lower is better)"}
"""What stands beside a task's metric where people read it: nothing for one that rises, as most do."""


def measured_of(task: Task) -> dict[str, Better]:
    """Return what can be measured of a model, and in which direction it is better.

    These are the keys of metrics, summary and scraped files, in their order there; the task's own metrics come last.
    """
    return OF_ANY_TASK | {name: metric.better for name, metric in task.metrics.items()}


class Evaluator:
    """Measures a model on the samples of the honest clients, and on the test set where there is one.

    Args:
        loss: what is minimized.
        data: the clients' samples.
        dataset: whose test set to use.
        honest: the clients whose mean loss is f.
        optimum: min f, where it is known.
        samples: estimate f from that many samples drawn by their weight in f, and use at most that many test samples;
            None: use all.
        seed: of that draw.
    """

    def __init__(
        self,
        loss: Loss,
        data: ArrayData,
        dataset: Dataset,
        honest: Sequence[int],
        *,
        optimum: float | None = None,
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        self._loss, self._optimum = loss, optimum
        counted = is_counted(loss, data)
        groups = sample_groups(data.split, honest, pooled=not counted)
        if samples is not None:
            groups = [(1 / samples, _draw(groups, len(data.targets), samples, seed))]
        self._objective = (CountedObjective if counted else Objective)(loss, data, groups)
        self._gradient = loss.flat.initial()
        self._test = _test_data(dataset, data, samples, seed)

    def evaluate(self, x: Tensor) -> dict[str, float]:
        """Return loss f(x), grad_norm, the task's metrics (on the test set, else on the honest clients' samples), and the gap."""
        loss, measured = self._objective(x, self._gradient)
        found = {"loss": loss, "grad_norm": norm(self._gradient), **measured}
        if self._optimum is not None:
            found["gap"] = loss - self._optimum
        if self._test is not None:
            seen = [(1.0, samples, self._loss.measure(x, batch, samples)) for batch, samples in self._test.blocks(None)]
            found |= metrics(self._loss.task, seen)
        return found


def _test_data(dataset: Dataset, like: ArrayData, samples: int | None, seed: int) -> ArrayData | None:
    """Return the test set, or ``samples`` of it drawn once; None where there is none."""
    if dataset.test_features is None or dataset.test_labels is None:
        return None
    features, targets = np.asarray(dataset.test_features), np.asarray(dataset.test_labels)
    if samples is not None and samples < len(targets):
        chosen = stream(seed, "test samples").permutation(len(targets))[:samples]
        features, targets = features[chosen], targets[chosen]
    test = replace(dataset, features=features, labels=targets)
    device, dtype = like.features.device, like.features.dtype
    return ArrayData(test, Split(len(targets), 1, None), device=device, dtype=dtype, chunk=like.chunk)


def _draw(groups: Groups, total: int, samples: int, seed: int) -> Positions:
    """Draw positions independently, each sample with its weight as its probability: the estimate of f is unbiased."""
    weights = np.zeros(total)
    for weight, positions in groups:
        weights[slice(None) if positions is None else positions] = weight
    ends = np.cumsum(weights)
    drawn: Positions = np.searchsorted(
        ends, np.sort(stream(seed, "evaluation").random(samples)) * ends[-1], side="right"
    )
    return drawn
