"""The server side of the problem: f, the mean of the honest clients' losses, over all their samples at once."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import fsum

import numpy as np
import torch
from torch import Tensor

from byzdist.problem.client_data import PooledData, Positions
from byzdist.problem.data import Split
from byzdist.problem.loss import Loss, Measured
from byzdist.problem.task import Task

Groups = list[tuple[float, Positions | None]]
"""Groups of samples: the weight of each sample of a group, and their positions in the data set (None: all of it)."""


def sample_groups(split: Split, honest: Sequence[int], *, pooled: bool = True) -> Groups:
    """Return the weights with which f, the mean of the honest clients' mean losses, is one sum over samples.

    The weights of all samples sum to 1. ``pooled``: merge shards of equal weight into one group.
    """
    holders = Counter(split.shard(client) for client in honest)
    shards: defaultdict[tuple[float, int], list[Positions]] = defaultdict(list)
    for client in {split.shard(client): client for client in honest}.values():
        positions, shard = split.indices(client), split.shard(client)
        if positions is None:
            return [(1 / split.samples, None)]
        shards[holders[shard] / (len(honest) * len(positions)), 0 if pooled else shard].append(positions)
    return [(weight, np.sort(np.concatenate(parts))) for (weight, _), parts in shards.items()]


class Objective:
    """A weighted sum of sample losses plus the regularizer, evaluated in one pass over the samples."""

    def __init__(self, loss: Loss, data: PooledData, groups: Groups) -> None:
        self.loss, self.data, self.groups = loss, data, groups

    def __call__(self, x: Tensor, gradient: Tensor) -> tuple[float, dict[str, float]]:
        """Write the gradient at x [d] into ``gradient`` [d]; return the loss and the task's metrics."""
        torch.mul(x, 2 * self.loss.l2, out=gradient)
        losses = [self.loss.l2 * float(torch.dot(x, x))]
        seen: list[tuple[float, int, Measured]] = []
        for weight, positions in self.groups:
            for batch, samples in self.data.blocks(positions):
                measured = self.loss.measure(x, batch, samples, weight, gradient)
                seen.append((weight, samples, measured))
                losses.append(weight * samples * measured.loss)
        return fsum(losses), metrics(self.loss.task, seen, weights_sum_to_one=True)


class CountedObjective(Objective):
    """An `Objective` whose loss is a quotient of sums and counts in each group; a group is then one client's samples."""

    def __call__(self, x: Tensor, gradient: Tensor) -> tuple[float, dict[str, float]]:
        """Write the gradient at x [d] into ``gradient`` [d]; return the loss and the task's metrics."""
        torch.mul(x, 2 * self.loss.l2, out=gradient)
        losses = [self.loss.l2 * float(torch.dot(x, x))]
        seen: list[tuple[float, int, Measured]] = []
        of_group = torch.empty_like(gradient)
        for weight, positions in self.groups:
            of_group.zero_()
            found = []
            for batch, samples in self.data.blocks(positions):
                found.append((weight, samples, self.loss.measure(x, batch, samples, 1.0, of_group)))
            share = weight * sum(samples for _, samples, _ in found)
            count = fsum(measured.count for _, _, measured in found) or 1.0
            losses.append(share * fsum(measured.count * measured.loss for _, _, measured in found) / count)
            gradient.add_(of_group, alpha=share / count)
            seen += found
        return fsum(losses), metrics(self.loss.task, seen, weights_sum_to_one=True)


def is_counted(loss: Loss, data: PooledData) -> bool:
    """Return whether the loss is a quotient of sums and counts, and not a mean over samples."""
    batch, _ = next(iter(data.blocks(np.arange(min(2, data.split.samples)))))  # a batch norm cannot take one sample
    return loss.is_counted(batch)


def metrics(
    task: Task, seen: Sequence[tuple[float, int, Measured]], *, weights_sum_to_one: bool = False
) -> dict[str, float]:
    """Return the metrics over batches; ``seen`` has the weight of each sample, the number of samples, and what was measured."""
    found = {}
    for name, metric in task.metrics.items():
        sums = [(weight, samples, *measured.metrics[name]) for weight, samples, measured in seen]
        once = weights_sum_to_one and all(count == samples for _, samples, _, count in sums)  # each sample counts once
        counted = 1.0 if once else fsum(weight * count for weight, _, _, count in sums)
        found[name] = metric.value(fsum(weight * total for weight, _, total, _ in sums), counted)
    return found
