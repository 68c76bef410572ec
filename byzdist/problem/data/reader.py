"""Reads the samples of a lazy data set, here or in processes that read ahead, and checks the batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from byzdist.errors import ConfigError, RunError, describe_error
from byzdist.problem.data.ahead import ReadAhead, ReadJob, check_form
from byzdist.problem.data.generators import draw_seeds, global_generators
from byzdist.problem.task import Batch, Task
from byzdist.randomness import stream


class Reader:
    """Reads batches and converts them to the form that the task needs: on the CPU, numbers in the run's dtype.

    Attributes:
        classes: the number of outputs; 0 if it is unknown.
        ahead: the processes that read for this reader; None: it reads itself.
        number: this reader's number among the readers of those processes.
    """

    def __init__(self, samples: Any, collate: Callable[[list[Any]], Any], name: str, dtype: str, task: Task) -> None:
        self._samples, self._collate, self._name, self._task = samples, collate, name, task
        self._dtype: torch.dtype = getattr(torch, dtype)
        self.classes = 0
        self.ahead: ReadAhead | None = None
        self.number = 0

    def job(self, indices: list[int], generator: np.random.Generator, whose: str) -> ReadJob:
        """Return the job of reading the samples at these places; ``generator`` draws the seeds, ``whose`` is named in errors."""
        return ReadJob(self.number, indices, draw_seeds(generator), whose)

    def read(self, job: ReadJob) -> Batch:
        """Return the samples of a job as one batch, read in this process with one thread.

        Raises:
            RunError: for an exception in the user's code, or a batch that does not suit the task.
        """
        threads = torch.get_num_threads()
        if threads > 1:  # so that sums in the user's code have the same bits in any process
            torch.set_num_threads(1)
        try:
            return self._read(job.indices, job.seeds, job.whose)
        finally:
            if threads > 1:
                torch.set_num_threads(threads)

    def _read(self, indices: list[int], seeds: Sequence[int], whose: str) -> Batch:
        gathered = []
        with global_generators(seeds):
            for index in indices:
                try:
                    gathered.append(self._samples[index])
                except MemoryError:
                    raise
                except (Exception, SystemExit) as error:  # a user's code may raise any exception
                    raise self._error(whose, f"sample {index} ended with {describe_error(error)}") from error
            try:
                batch = self._collate(gathered)
            except MemoryError:
                raise
            except (Exception, SystemExit) as error:
                raise self._error(whose, f"collating {_listed(indices)} ended with {describe_error(error)}") from error
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
                refuse(f"has inputs in {inputs.dtype}, but tokens are integers")
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
                wanted = f"0 to {self.classes - 1}" if self.classes else "0, 1, ..."
                refuse(f"has targets from {lowest} to {highest}, not the integers {wanted} of its classes")
        return inputs, targets

    def _error(self, whose: str, problem: str) -> RunError:
        return RunError(f"data: {self._name!r} cannot be read for {whose}: {problem}.")

    def __len__(self) -> int:
        return len(self._samples)


def read_ahead(readers: Sequence[Reader], processes: int) -> None:
    """Start processes that read ahead for all of these readers.

    Raises:
        ConfigError: if batches cannot be sent between processes.
    """
    try:
        for reader in readers:
            check_form(reader.read(reader.job([0], stream(0, "trial"), "a trial")))
    except RunError as error:
        raise ConfigError(str(error)) from error
    ahead = ReadAhead(lambda job: readers[job.reader].read(job), processes)
    for number, reader in enumerate(readers):
        reader.ahead, reader.number = ahead, number


def cast(batch: Any, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Any:
    """Return a batch with its floating-point numbers in a dtype and on a device; mappings, tuples and lists are kept."""
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
