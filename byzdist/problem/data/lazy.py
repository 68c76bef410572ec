"""Samples that are read when they are needed, from a torch Dataset of map style or anything with a length and indices."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, default_collate
from torch.utils.data import Dataset as TorchDataset

from byzdist.errors import ConfigError, RunError, describe_error
from byzdist.problem.data.base import Dataset
from byzdist.problem.data.reader import Reader
from byzdist.problem.task import Batch, Task
from byzdist.randomness import stream

_advice = logging.getLogger("byzdist.config.checks.data")  # only the server logs it, see reporting/logs.py
_TRIAL_SAMPLES = 16  # samples that every rank reads at the start, in place of all


@dataclass(frozen=True)
class Lazy:
    """What a data function may return to say more than a Dataset does.

    Attributes:
        dataset: has a length and returns a sample for an index; of a DataLoader, dataset and collate_fn are used.
        test: the same for a test set, or None.
        collate: makes a batch of a list of samples; torch's default_collate by default.
        outputs: how many numbers the model gives for a sample: classes, or the vocabulary. Needed if the data set has neither
            ``targets`` nor ``labels``.
    """

    dataset: Any
    test: Any = None
    collate: Callable[[list[Any]], Any] | None = None
    outputs: int | None = None


@dataclass(frozen=True)
class LazyDataset:
    """A prepared data set that is read lazily: what a `Dataset` is for arrays.

    labels and test_labels are the targets if the data set has them and they are classes, else NaN for each sample. ``batch_size``
    is a DataLoader's, ``repeatable`` says whether the same seeds give the same samples.
    """

    key: str
    reader: Reader
    labels: NDArray[Any]
    test: Reader | None
    test_labels: NDArray[Any] | None
    classes: int
    feature_shape: tuple[int, ...]
    batch_size: int | None
    repeatable: bool

    def some(self, step: int) -> NDArray[Any]:
        """Return the numbers in some samples, at most one in ``step``; nothing if reading them again would give others."""
        if not self.repeatable:
            return np.zeros(0)
        indices = range(0, len(self.reader), max(step, len(self.reader) // _TRIAL_SAMPLES))[:_TRIAL_SAMPLES]
        try:
            return _numbers(_first(self.reader, indices))
        except RunError as error:  # before anything has started
            raise ConfigError(str(error)) from error

    def tested(self) -> "LazyDataset | None":
        """Return the test set as a data set of its own."""
        if self.test is None or self.test_labels is None:
            return None
        return replace(self, reader=self.test, labels=self.test_labels, test=None, test_labels=None)


Prepared = Dataset | LazyDataset


def is_lazy(returned: Any) -> bool:
    """Return whether what a data function returned is to be read lazily."""
    parts = returned if isinstance(returned, tuple | list) and len(returned) == 2 else [returned]
    return any(isinstance(part, Lazy | TorchDataset | DataLoader) for part in parts)


def prepare_lazy(
    returned: Any, name: str, key: str, dtype: str, task: Task, log: logging.Logger = _advice
) -> LazyDataset:
    """Return a data set that is read lazily, after reading some of its samples as a trial.

    Args:
        returned: a Dataset, a DataLoader or a `Lazy`, or two of the former: (train, test).
        name: the data function, for errors.
        key: names the data set.
        dtype: of floating-point numbers.
        task: says what a batch is.
        log: takes warnings.

    Raises:
        ConfigError: for data from which the task cannot learn.
    """
    given = as_lazy(returned)
    reader, labels, batch_size = _part(given.dataset, given, name, dtype, task, log)
    test, test_labels = None, None
    if given.test is not None:
        test, test_labels, _ = _part(given.test, given, name, dtype, task, log)
    try:
        batch = _first(reader, range(min(_TRIAL_SAMPLES, len(reader))))
        if labels.dtype.kind == "i" and not np.array_equal(np.sort(batch[1]), np.sort(labels[: len(batch[1])])):
            log.warning("data: %r reads other targets than those in its `targets`, which are therefore not used.", name)
            labels = _unknown(len(reader))
        reader.classes = classes = _outputs(given, labels, batch, name, task)
        again = _first(reader, range(min(_TRIAL_SAMPLES, len(reader))))
        if test is not None:
            test.classes = classes
            _first(test, range(min(_TRIAL_SAMPLES, len(test))))
    except RunError as error:
        raise ConfigError(str(error)) from error
    repeatable = np.array_equal(_numbers(batch), _numbers(again))
    if not repeatable:
        log.warning(
            "data: %r reads other samples a second time although the seeds are the same: the run cannot be repeated. Draw with the "
            "global generators of torch, numpy or Python, which byzdist seeds.",
            name,
        )
    shape = tuple(batch[0].shape[1:]) if isinstance(batch, tuple) and isinstance(batch[0], Tensor) else ()
    return LazyDataset(key, reader, labels, test, test_labels, classes, shape, batch_size, repeatable)


def as_lazy(returned: Any) -> Lazy:
    """Return the result of a data function (a Dataset, a DataLoader, a pair of them or a `Lazy`) as a `Lazy`."""
    if isinstance(returned, tuple | list):
        return Lazy(*returned)
    return returned if isinstance(returned, Lazy) else Lazy(returned)


def _part(
    part: Any, given: Lazy, name: str, dtype: str, task: Task, log: logging.Logger
) -> tuple[Reader, NDArray[Any], int | None]:
    collate, batch_size, what = given.collate, None, f"data: {name!r} returns"
    if isinstance(part, DataLoader):
        if not isinstance(part.dataset, IterableDataset):
            log.warning(
                "data: of the DataLoader that %r returns, dataset and collate_fn are used; its sampler and its worker processes are not: "
                "each client draws its own batches, of method.batch_size.",
                name,
            )
        collate, batch_size, part = collate or part.collate_fn, part.batch_size, part.dataset
    if isinstance(part, IterableDataset):
        raise ConfigError(
            f"{what} an IterableDataset, from which a client cannot read the samples that it draws. Return a map-style Dataset, with "
            "__len__ and __getitem__."
        )
    if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
        raise ConfigError(
            f"{what} a {type(part).__name__} without __len__ or __getitem__; a map-style Dataset has both."
        )
    try:
        length = len(part)
    except Exception as error:  # whatever a user's own code raises
        raise ConfigError(f"data: the length of what {name!r} returns ended with {describe_error(error)}.") from error
    if not length:
        raise ConfigError(f"{what} a Dataset without a sample.")
    labels = _unknown(length)
    if task.target == "classes" and (known := _told_targets(part)) is not None and known.shape == (length,):
        labels = known
    return Reader(part, collate or default_collate, name, dtype, task), labels, batch_size


def _told_targets(samples: Any) -> NDArray[np.int64] | None:
    """Return the classes that a data set tells without being read, or None."""
    if isinstance(samples, Subset):
        inner = _told_targets(samples.dataset)
        return None if inner is None else inner[np.asarray(samples.indices, np.int64)]
    targets = samples.tensors[1] if isinstance(samples, TensorDataset) and len(samples.tensors) == 2 else None
    for key in ("targets", "labels"):
        targets = getattr(samples, key, None) if targets is None else targets
    try:
        array = np.asarray(targets)
    except (ValueError, TypeError):
        return None
    return array.astype(np.int64) if array.dtype.kind in "biu" and array.ndim == 1 else None


def _unknown(length: int) -> NDArray[Any]:
    return np.broadcast_to(np.float64(np.nan), (length,))


def _outputs(given: Lazy, labels: NDArray[Any], batch: Batch, name: str, task: Task) -> int:
    """Return how many numbers a model gives for a sample; 0 if only the task knows."""
    if given.outputs is not None:
        return given.outputs
    if task.target == "classes" and labels.dtype.kind == "i":
        return int(labels.max()) + 1
    if task.target in ("classes", "tokens"):
        what = "classes there are" if task.target == "classes" else "tokens the vocabulary has"
        raise ConfigError(
            f"data: {name!r} does not tell how many {what}. Return byzdist.problem.data.Lazy(dataset, outputs=...)"
            + (", or give the Dataset its `targets`." if task.target == "classes" else ".")
        )
    return 0 if task.target == "own" else prod(batch[1].shape[1:])


def _first(reader: Reader, indices: Sequence[int]) -> Batch:
    return reader.read(reader.job(list(indices), stream(0, "trial"), "a trial"))


def _numbers(batch: Any) -> NDArray[Any]:
    """Return all numbers in a batch, [n]."""
    found = [tensor.detach().double().numpy().ravel() for tensor in _tensors(batch)]
    return np.concatenate(found) if found else np.zeros(0)


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
