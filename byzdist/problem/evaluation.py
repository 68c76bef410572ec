"""How good a model is: the loss f of the good clients, its gradient, the gap to its minimum, the accuracy."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import fsum

import numpy as np
import torch
from torch import Tensor

from byzdist.norms import norm
from byzdist.problem.data import Dataset, Split
from byzdist.problem.oracle import Oracle, Positions
from byzdist.randomness import stream

EVALUATED = ("loss", "gap", "grad_norm", "accuracy")
"""What can be measured of a model: the keys of metrics, summary and scraped files, in their order there."""

Groups = list[tuple[float, Positions | None]]
"""Samples by weight: the weight of each one, and their positions in the data set (None: all of it)."""


def sample_groups(split: Split, good: Sequence[int]) -> Groups:
    """Return the weights that make f, the mean over the good clients of their mean losses, one sum over samples.

    There are as many groups as different sizes of shards; the weights of all samples sum to 1.
    """
    holders = Counter(split.shard(client) for client in good)
    shards: defaultdict[float, list[Positions]] = defaultdict(list)
    for client in {split.shard(client): client for client in good}.values():
        positions = split.indices(client)
        if positions is None:
            return [(1 / split.samples, None)]
        shards[holders[split.shard(client)] / (len(good) * len(positions))].append(positions)
    return [(weight, np.sort(np.concatenate(parts))) for weight, parts in shards.items()]


class Objective:
    """A weighted sum of sample losses plus the regularizer, evaluated in one pass over the samples."""

    def __init__(self, oracle: Oracle, groups: Groups) -> None:
        self.oracle, self.groups = oracle, groups

    def __call__(self, x: Tensor, gradient: Tensor) -> tuple[float, float]:
        """Write the gradient at x [d] into ``gradient`` [d]; return the loss and the accuracy."""
        oracle = self.oracle
        torch.mul(x, 2 * oracle.l2, out=gradient)
        losses = [oracle.l2 * float(torch.dot(x, x))]
        accuracies = []
        for weight, positions in self.groups:
            for features, labels in oracle.blocks(positions):
                logits = oracle.add_gradient(x, features, labels, weight, gradient)
                losses.append(weight * len(labels) * float(oracle.loss(logits, labels)))
                accuracies.append(weight * _correct(logits, labels))
        return fsum(losses), fsum(accuracies)


class Evaluator:
    """Measures a model on the samples of the good clients, and on the test set where there is one.

    Args:
        oracle: gives losses and gradients.
        dataset: whose test set to use.
        good: the clients whose mean loss is f.
        optimum: min f, where it is known.
        samples: estimate f from that many samples drawn by their weight in f, and use at most that many test samples;
            None: use all.
        seed: of that draw.
    """

    def __init__(
        self,
        oracle: Oracle,
        dataset: Dataset,
        good: Sequence[int],
        *,
        optimum: float | None = None,
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        self._oracle, self._optimum = oracle, optimum
        groups = sample_groups(oracle.split, good)
        if samples is not None:
            groups = [(1 / samples, _draw(groups, len(oracle.labels), samples, seed))]
        self._objective = Objective(oracle, groups)
        self._gradient = oracle.features.new_empty(oracle.dimension)
        self._test: tuple[Tensor, Tensor] | None = None
        if dataset.test_features is not None and dataset.test_labels is not None:
            features, labels = np.asarray(dataset.test_features), np.asarray(dataset.test_labels)
            if samples is not None and samples < len(labels):
                chosen = stream(seed, "test samples").permutation(len(labels))[:samples]
                features, labels = features[chosen], labels[chosen]
            like = oracle.features
            self._test = (
                torch.from_numpy(features).to(like.device, like.dtype),
                torch.from_numpy(labels).to(like.device),
            )

    def evaluate(self, x: Tensor) -> dict[str, float]:
        """Return loss f(x), grad_norm, accuracy (on the test set, else on the good clients' samples), and the gap."""
        loss, accuracy = self._objective(x, self._gradient)
        measured = {"loss": loss, "grad_norm": norm(self._gradient), "accuracy": accuracy}
        if self._optimum is not None:
            measured["gap"] = loss - self._optimum
        if self._test is not None:
            measured["accuracy"] = self._test_accuracy(x, *self._test)
        return measured

    def _test_accuracy(self, x: Tensor, features: Tensor, labels: Tensor) -> float:
        step = self._oracle.chunk
        correct = sum(
            _correct(self._oracle.logits(x, features[start : start + step]), labels[start : start + step])
            for start in range(0, len(labels), step)
        )
        return correct / len(labels)


def _correct(logits: Tensor, labels: Tensor) -> int:
    predicted = logits > 0 if logits.ndim == 1 else logits.argmax(1)
    return int((predicted == labels).sum())


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
