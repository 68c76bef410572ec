"""How good a model is: the loss f of the honest clients, its gradient, the gap to its minimum, the task's metrics."""

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np
from torch import Tensor

from byzdist.norms import norm
from byzdist.problem.client_data import PooledData, Positions
from byzdist.problem.data import Prepared
from byzdist.problem.dataset_data import undivided_data
from byzdist.problem.loss import Loss
from byzdist.problem.objective import CountedObjective, Groups, Objective, is_counted, metrics, sample_groups
from byzdist.problem.task import Better, Task
from byzdist.randomness import stream

OF_ANY_TASK: Final[dict[str, Better]] = {"loss": "lower", "gap": "lower", "grad_norm": "lower"}
"""What can be measured of a model with any task, and in which direction it is better."""
NOTES: Final[dict[Better, str]] = {"higher": "", "lower": " (lower is better)"}
"""What people read beside the name of a metric: nothing if higher is better, as for most."""


def measured_of(task: Task) -> dict[str, Better]:
    """Return what can be measured of a model, and in which direction it is better.

    These are the keys of metrics, summary and scraped files, in their order there; the task's own metrics come last.
    """
    return OF_ANY_TASK | {name: metric.better for name, metric in task.metrics.items()}


class Evaluator:
    """Measures a model on the samples of the honest clients, and on the test set if there is one.

    Args:
        loss: what is minimized.
        data: the clients' samples.
        dataset: its test set is used, unless there is a set for validation.
        honest: the clients whose mean loss is f.
        validation: a set on which the task's metrics are measured in place of the test set.
        optimum: min f, if it is known.
        samples: how many samples, drawn by their weight in f, estimate f, and the largest number of test samples; None: all.
        seed: the draw's.

    Attributes:
        gradient: ∇f(x) of the last x that was evaluated, d values.
    """

    def __init__(
        self,
        loss: Loss,
        data: PooledData,
        dataset: Prepared,
        honest: Sequence[int],
        *,
        validation: Prepared | None = None,
        optimum: float | None = None,
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        self._loss, self._optimum = loss, optimum
        counted = is_counted(loss, data)
        groups = sample_groups(data.split, honest, pooled=not counted)
        if samples is not None:
            groups = [(1 / samples, _draw(groups, data.split.samples, samples, seed))]
        self._objective = (CountedObjective if counted else Objective)(loss, data, groups)
        self.gradient = loss.flat.initial()
        test = validation or dataset.tested()
        self._test = None if test is None else undivided_data(test, data.device, data.dtype, data.chunk)
        self._tested: Positions | None = None  # positions in the test set; None: all of it
        if self._test is not None and samples is not None and samples < self._test.split.samples:
            self._tested = stream(seed, "test samples").permutation(self._test.split.samples)[:samples]

    def evaluate(self, x: Tensor) -> dict[str, float]:
        """Return loss f(x), grad_norm, the task's metrics (on the test set, else on the honest clients' samples), and the gap."""
        loss, measured = self._objective(x, self.gradient)
        found = {"loss": loss, "grad_norm": norm(self.gradient), **measured}
        if self._optimum is not None:
            found["gap"] = loss - self._optimum
        if self._test is not None:
            seen = [
                (1.0, samples, self._loss.measure(x, batch, samples))
                for batch, samples in self._test.blocks(self._tested)
            ]
            found |= metrics(self._loss.task, seen)
        return found


class ValidationOnly:
    """Measures a model on a set of the server's own alone, because the server cannot read the clients' samples.

    Args:
        loss: what is minimized.
        validation: the set.
        samples: the largest number of samples of the set, drawn once; None: all.
        seed: the draw's.
    """

    def __init__(self, loss: Loss, validation: Prepared, *, samples: int | None = None, seed: int = 0) -> None:
        chunk = loss.chunk(prod(validation.feature_shape))
        held, chosen = undivided_data(validation, loss.device, loss.dtype, chunk), None
        if samples is not None and samples < held.split.samples:
            chosen = np.sort(stream(seed, "test samples").permutation(held.split.samples)[:samples])
        total = held.split.samples if chosen is None else len(chosen)
        groups: Groups = [(1 / total, chosen)]
        self._objective = (CountedObjective if is_counted(loss, held) else Objective)(loss, held, groups)
        self._gradient = loss.flat.initial()

    def evaluate(self, x: Tensor) -> dict[str, float]:
        """Return the loss on the set, the norm of its gradient, and the task's metrics."""
        loss, measured = self._objective(x, self._gradient)
        return {"loss": loss, "grad_norm": norm(self._gradient), **measured}


def _draw(groups: Groups, total: int, samples: int, seed: int) -> Positions:
    """Draw positions independently, each sample with its weight as its probability, so that the estimate of f is unbiased."""
    weights = np.zeros(total)
    for weight, positions in groups:
        weights[slice(None) if positions is None else positions] = weight
    ends = np.cumsum(weights)
    drawn: Positions = np.searchsorted(
        ends, np.sort(stream(seed, "evaluation").random(samples)) * ends[-1], side="right"
    )
    return drawn
