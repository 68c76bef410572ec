"""Samples that are read when they are needed, from a map-style Dataset of torch's or anything with a length and indices."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, default_collate
from torch.utils.data import Dataset as TorchDataset

from byzdist.errors import ConfigError, RunError, told
from byzdist.problem.data.base import Dataset
from byzdist.problem.data.generators import global_generators
from byzdist.problem.task import Batch, Task
from byzdist.randomness import stream

_advice = logging.getLogger("byzdist.config.checks.data")  # what the server alone says, see logs
_FEW = 16  # samples that stand for all, where every rank reads some at the start


@dataclass(frozen=True)
class Lazy:
    """What a data function may return to say more than a Dataset does.

    Attributes:
        dataset: has a length and gives a sample for an index; a DataLoader gives its dataset and collate_fn.
        test: the same for a test set, or None.
        collate: makes a batch of a list of samples; torch's default_collate unless it is given.
        outputs: how many numbers the model gives for a sample: classes, or the vocabulary. Needed where the data set has neither
            ``targets`` nor ``labels`` of its own.
    """

    dataset: Any
    test: Any = None
    collate: Callable[[list[Any]], Any] | None = None
    outputs: int | None = None


class Reader:
    """Reads batches, and makes of them what the task wants: on the CPU, numbers in the run's dtype."""

    def __init__(self, samples: Any, collate: Callable[[list[Any]], Any], name: str, dtype: str, task: Task) -> None:
        self._samples, self._collate, self._name, self._task = samples, collate, name, task
        self._dtype: torch.dtype = getattr(torch, dtype)
        self.classes = 0  # unknown

    def read(self, indices: Sequence[int], generator: np.random.Generator, whose: str) -> Batch:
        """Return the samples at these places as one batch.

        Args:
            indices: of the samples.
            generator: seeds the global generators of torch, numpy and Python while samples are read and collated.
            whose: who reads, for errors.

        Raises:
            RunError: what the user's code raises, or a batch from which the task cannot learn.
        """
        gathered = []
        with global_generators(generator):
            for index in indices:
                try:
                    gathered.append(self._samples[index])
                except MemoryError:
                    raise
                except (Exception, SystemExit) as error:  # whatever a user's own code raises
                    raise self._error(whose, f"sample {index} ended with {told(error)}") from error
            try:
                batch = self._collate(gathered)
            except MemoryError:
                raise
            except (Exception, SystemExit) as error:
                raise self._error(whose, f"to collate {_listed(indices)} ended with {told(error)}") from error
        return self._fitting(batch, indices, whose)

    def _fitting(self, batch: Any, indices: Sequence[int], whose: str) -> Batch:
        task = self._task

        def refuse(problem: str) -> NoReturn:
            raise self._error(whose, f"the batch of {_listed(indices)} {problem}")

        if task.target == "own" and not (isinstance(batch, tuple | list) and len(batch) == 2):
            return cast(batch, self._dtype)
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            refuse(f"is a {type(batch).__name__}; the task wants (inputs, targets), see `collate` of Lazy")
        inputs, targets = batch
        if isinstance(inputs, Tensor) and task.inputs == "numbers":
            inputs = inputs.to(self._dtype)
            if not bool(inputs.isfinite().all()):
                refuse("has inputs that are NaN or infinite")
        elif isinstance(inputs, Tensor):
            if inputs.is_floating_point():
                refuse(f"has inputs in {inputs.dtype}, and tokens are integers")
            inputs = inputs.long()
        else:
            inputs = cast(inputs, self._dtype)
        if task.target == "own":
            return inputs, cast(targets, self._dtype)
        if not isinstance(targets, Tensor):
            refuse(f"has a {type(targets).__name__} as targets, not a tensor")
        if task.target != "tokens" and (not targets.ndim or len(targets) != len(indices)):
            refuse(f"has targets of shape {list(targets.shape)} for {len(indices)} samples")
        if targets.ndim == 2 and targets.shape[1] == 1 and task.target in ("classes", "numbers"):
            targets = targets[:, 0]
        if task.target in ("numbers", "labels"):
            targets = targets.to(self._dtype)
            if not bool(targets.isfinite().all()):
                refuse("has targets that are NaN or infinite")
            return inputs, targets
        if targets.is_floating_point() and not bool((targets == targets.floor()).all()):
            refuse("has targets that are not integers; for numbers to predict set task=regression")
        targets = targets.long()
        if task.target == "classes":
            if targets.ndim != 1:
                refuse(f"has targets of shape {list(targets.shape)}; want one class for each sample")
            lowest, highest = int(targets.min()), int(targets.max())
            if lowest < 0 or (self.classes and highest >= self.classes):
                most = f"0 to {self.classes - 1}" if self.classes else "0, 1, ..."
                refuse(f"has targets from {lowest} to {highest}, not the integers {most} of its classes")
        return inputs, targets

    def _error(self, whose: str, problem: str) -> RunError:
        return RunError(f"data: {self._name!r} cannot be read for {whose}: {problem}.")

    def __len__(self) -> int:
        return len(self._samples)


@dataclass(frozen=True)
class LazyDataset:
    """A prepared data set that is read lazily: what a `Dataset` is for arrays.

    labels and test_labels are the targets where the data set tells them and they are classes, else NaN for each sample. ``batch_size``
    is that of a DataLoader, ``repeatable`` says whether the same seeds give the same samples.
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
        """Return the numbers in some samples, at most one in ``step``; nothing where reading them again would give others."""
        if not self.repeatable:
            return np.zeros(0)
        indices = range(0, len(self.reader), max(step, len(self.reader) // _FEW))[:_FEW]
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
    """Return whether a data function means its samples to be read lazily."""
    parts = returned if isinstance(returned, tuple | list) and len(returned) == 2 else [returned]
    return any(isinstance(part, Lazy | TorchDataset | DataLoader) for part in parts)


def prepare_lazy(returned: Any, name: str, key: str, dtype: str, task: Task) -> LazyDataset:
    """Return what a data function returned, tried out: some samples are read.

    Args:
        returned: a Dataset, a DataLoader or a `Lazy`, or two of the former: (train, test).
        name: what returned it, for errors.
        key: names it.
        dtype: of numbers.
        task: says what a batch is.

    Raises:
        ConfigError: for what cannot be learnt from.
    """
    if isinstance(returned, tuple | list):
        returned = Lazy(*returned)
    given = returned if isinstance(returned, Lazy) else Lazy(returned)
    reader, labels, batch_size = _part(given.dataset, given, name, dtype, task)
    test, test_labels = None, None
    if given.test is not None:
        test, test_labels, _ = _part(given.test, given, name, dtype, task)
    try:
        batch = _first(reader, range(min(_FEW, len(reader))))
        if labels.dtype.kind == "i" and not np.array_equal(np.sort(batch[1]), np.sort(labels[: len(batch[1])])):
            _advice.warning("data: %r reads other targets than its `targets` say, which are not used.", name)
            labels = _unknown(len(reader))
        reader.classes = classes = _outputs(given, labels, batch, name, task)
        again = _first(reader, range(min(_FEW, len(reader))))
        if test is not None:
            test.classes = classes
            _first(test, range(min(_FEW, len(test))))
    except RunError as error:
        raise ConfigError(str(error)) from error
    repeatable = np.array_equal(_numbers(batch), _numbers(again))
    if not repeatable:
        _advice.warning(
            "data: %r reads other samples a second time although the seeds are the same: the run cannot be repeated. Draw with the "
            "global generators of torch, numpy or Python, which byzdist seeds.",
            name,
        )
    shape = tuple(batch[0].shape[1:]) if isinstance(batch, tuple) and isinstance(batch[0], Tensor) else ()
    return LazyDataset(key, reader, labels, test, test_labels, classes, shape, batch_size, repeatable)


def read_whole(returned: Any, name: str, dtype: str, task: Task) -> Batch:
    """Return all samples of a Dataset, a DataLoader or a `Lazy` as one batch; arguments and errors as for `prepare_lazy`."""
    given = returned if isinstance(returned, Lazy) else Lazy(returned)
    reader, _, _ = _part(given.dataset, given, name, dtype, task)
    try:
        return reader.read(range(len(reader)), stream(0, "data"), name)
    except RunError as error:
        raise ConfigError(str(error)) from error


def _part(part: Any, given: Lazy, name: str, dtype: str, task: Task) -> tuple[Reader, NDArray[Any], int | None]:
    collate, batch_size, what = given.collate, None, f"data: {name!r} returns"
    if isinstance(part, DataLoader):
        if not isinstance(part.dataset, IterableDataset):
            _advice.warning(
                "data: of the DataLoader that %r returns, dataset and collate_fn are used; its sampler and its worker processes are not: "
                "each client draws its own batches, of method.batch_size.",
                name,
            )
        collate, batch_size, part = collate or part.collate_fn, part.batch_size, part.dataset
    if isinstance(part, IterableDataset):
        raise ConfigError(
            f"{what} an IterableDataset, of which no client can read the samples that it draws. Return a map-style Dataset, with "
            "__len__ and __getitem__."
        )
    if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
        raise ConfigError(
            f"{what} a {type(part).__name__} without __len__ or __getitem__; a map-style Dataset has both."
        )
    try:
        length = len(part)
    except Exception as error:  # whatever a user's own code raises
        raise ConfigError(f"data: the length of what {name!r} returns ended with {told(error)}.") from error
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
    told_ = samples.tensors[1] if isinstance(samples, TensorDataset) and len(samples.tensors) == 2 else None
    for key in ("targets", "labels"):
        told_ = getattr(samples, key, None) if told_ is None else told_
    try:
        array = np.asarray(told_)
    except (ValueError, TypeError):
        return None
    return array.astype(np.int64) if array.dtype.kind in "biu" and array.ndim == 1 else None


def _unknown(length: int) -> NDArray[Any]:
    return np.broadcast_to(np.float64(np.nan), (length,))


def _outputs(given: Lazy, labels: NDArray[Any], batch: Batch, name: str, task: Task) -> int:
    """Return how many numbers a model gives for a sample; 0 where only the task knows."""
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
    return reader.read(indices, stream(0, "trial"), "a trial")


def _numbers(batch: Any) -> NDArray[Any]:
    """Return all numbers in a batch, [n]."""
    found = [tensor.detach().double().numpy().ravel() for tensor in _tensors(batch)]
    return np.concatenate(found) if found else np.zeros(0)


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def cast(batch: Any, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Any:
    """Return a batch with floating numbers in a dtype, and on a device; mappings, tuples and lists keep their form."""
    if isinstance(batch, Tensor):
        return batch.to(device, dtype if batch.is_floating_point() else None)
    if isinstance(batch, Mapping):
        return {key: cast(part, dtype, device) for key, part in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [cast(part, dtype, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _listed(indices: Sequence[int]) -> str:
    some = ", ".join(map(str, indices[:4]))
    return f"sample {some}" if len(indices) == 1 else f"samples {some}{', ...' if len(indices) > 4 else ''}"
