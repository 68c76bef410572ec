"""The client side of a problem for tests: a module, arrays, and who holds what."""

from collections.abc import Collection
from math import prod
from typing import Any

import torch
from torch import nn

from byzdist.problem.client_data import ArrayData
from byzdist.problem.data import Dataset, Split, load
from byzdist.problem.loss import Buffers, Loss, Precision
from byzdist.problem.oracle import Oracle
from byzdist.problem.task import Task
from byzdist.problem.tasks.classification import CLASSIFICATION


class ArrayOracle(Oracle):
    """An oracle whose samples are in arrays, where a test can look at them."""

    data: ArrayData


def oracle_of(
    model: nn.Module,
    dataset: Dataset,
    split: Split,
    *,
    task: Task = CLASSIFICATION,
    dtype: torch.dtype = torch.float64,
    flipped: Collection[int] = (),
    buffers: Buffers = "refuse",
    precision: Precision = "full",
) -> ArrayOracle:
    """Return the oracle of a module on the CPU."""
    loss = Loss(model, task, dtype=dtype, buffers=buffers, precision=precision)
    chunk = loss.chunk(prod(dataset.feature_shape))
    return ArrayOracle(loss, ArrayData(dataset, split, dtype=dtype, chunk=chunk, flipped=flipped))


def load_arrays(*arguments: Any, **keywords: Any) -> Dataset:
    """Return what `byzdist.problem.data.load` does, of a data set that is arrays."""
    found = load(*arguments, **keywords)
    assert isinstance(found, Dataset)
    return found
