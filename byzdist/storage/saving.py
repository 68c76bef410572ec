"""When checkpoints are taken, and how they are written while training goes on.

The state is copied into buffers that are reused, and a thread writes the copy. If clients remember something, the workers do
the same when the server asks, and the server writes its file, which completes the checkpoint, after theirs are on the disk. The
server does not wait forever for a part: its file then says which ranks' parts are missing, and those clients start afresh.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from byzdist.config.schema import Checkpoints
from byzdist.errors import ConfigError, RunError
from byzdist.host.descriptors import spare_descriptors
from byzdist.storage.checkpoint import (
    MISSING,
    Checkpoint,
    Damaged,
    file_name,
    owner,
    prune,
    prune_worker,
    read_checkpoint,
)
from byzdist.transport.base import Save, ServerEnd
from byzdist.transport.wire import Stage

log = logging.getLogger(__name__)
_ASK_EVERY = 0.2  # seconds between two questions to the workers
_PATIENCE = 60.0  # seconds for the last checkpoint of a run

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and facts


@dataclass
class _Job:
    """A checkpoint in progress; ``writing`` is None until all workers have saved their part."""

    checkpoint: Checkpoint
    ask_at: float
    writing: Future[int | None] | None = None


class ServerSaver:
    """Takes the server's checkpoints.

    Args:
        folder: where they go.
        run: the run's name.
        settings: how often, and how many are kept.
        facts: what each checkpoint says, as JSON.
        transport: carries the order to the workers if clients remember something, else None.
        sync: writes to the disk what must be there before a checkpoint counts.
        resumed: the round after which the run was resumed; -1 for a new run.
        clock: returns the time in seconds.
        patience: how long the last checkpoint waits for the workers, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        settings: Checkpoints,
        facts: dict[str, Any],
        transport: ServerEnd | None,
        sync: Callable[[], None],
        resumed: int = -1,
        *,
        clock: Callable[[], float] = time.monotonic,
        patience: float = _PATIENCE,
    ) -> None:
        self._folder, self._run, self._keep, self._facts = folder, run, settings.keep, facts
        self._transport, self._sync = transport, sync
        self._rounds = math.inf if settings.every == "none" else settings.every
        self._seconds = math.inf if settings.minutes == "none" else 60 * settings.minutes
        self._clock, self._patience = clock, patience
        self._time = clock()
        self._round = resumed  # the newest round whose checkpoint was begun
        self._written = resumed  # the newest round whose checkpoint was written
        self._oldest = 0  # the oldest round of a kept checkpoint, as far as known
        self._job: _Job | None = None
        self._buffers: dict[str, Tensor] = {}
        self._missing: list[int] = []  # the ranks whose part the last checkpoint lacks
        self._thread = ThreadPoolExecutor(1, "checkpoint")

    def after(self, round_: int, state: Callable[[], State]) -> str | None:
        """Continue the checkpoint in progress, or begin one if it is due; return why one failed, if one did."""
        if self._job is not None:
            return self._follow(self._job)
        if round_ - max(self._round, 0) >= self._rounds or self._clock() - self._time >= self._seconds:
            return self._begin(round_, state)
        return None

    def finish(self, round_: int, state: Callable[[], State]) -> list[str]:
        """Complete the checkpoint in progress and take the last one of the run; return why any failed."""
        failures: list[str | None] = []
        try:
            failures.append(self._complete())
            if round_ > self._written:
                failures += [self._begin(round_, state), self._complete()]
        except RunError as error:  # a worker is gone that must save its part
            failures.append(self._fail(self._round, str(error)))
        self._thread.shutdown()
        return [failure for failure in failures if failure]

    def continue_in(self, folder: Path) -> None:
        """Write to another folder, or to one that was removed and made again, from the next checkpoint on."""
        self._folder, self._written = folder, -1

    def _begin(self, round_: int, state: Callable[[], State]) -> str | None:
        tensors, facts = state()
        checkpoint = Checkpoint(self._run, round_, self._facts | facts, snapshot(tensors, self._buffers))
        self._round, self._time = round_, self._clock()
        self._job = _Job(checkpoint, self._time + _ASK_EVERY)
        if self._transport is not None:
            self._transport.save(Save(round_, self._oldest))
        return self._follow(self._job)

    def _follow(self, job: _Job, until: float = math.inf) -> str | None:
        """Write once the workers have saved their part, and ask them from time to time; or take the result."""
        if job.writing is None:
            if self._transport is not None:
                if self._transport.unsaved() and self._clock() < until:
                    if self._clock() >= job.ask_at:
                        job.ask_at = self._clock() + _ASK_EVERY
                        self._transport.save(Save(job.checkpoint.round, self._oldest))
                    return None
                self._note_missing(job.checkpoint, self._transport)
            job.writing = self._thread.submit(self._write, job.checkpoint)
        if not job.writing.done():
            return None
        try:
            self._oldest = job.writing.result() or 0
        except OSError as error:
            return self._fail(job.checkpoint.round, error.strerror or str(error))
        self._job, self._written = None, job.checkpoint.round
        return None

    def _note_missing(self, checkpoint: Checkpoint, transport: ServerEnd) -> None:
        """Record in a checkpoint whose part did not come, and among the events if that is new."""
        missing = transport.end_save()
        checkpoint.facts[MISSING] = missing
        if fresh := sorted(set(missing) - set(self._missing)):
            text = f"the checkpoint of round {checkpoint.round} lacks what the clients of workers {fresh} remember"
            log.warning("%s", text)
            transport.events.append(text)
        self._missing = missing

    def _fail(self, round_: int, cause: str) -> str:
        """Give up the checkpoint in progress; return the event to report."""
        self._job = None
        reason = f"the checkpoint of round {round_} could not be written: {cause}"
        log.error("%s. Training goes on; the next one is tried when it is due.", reason)
        return reason

    def _write(self, checkpoint: Checkpoint) -> int | None:
        with spare_descriptors:
            self._sync()
            checkpoint.write(self._folder)
            return prune(self._folder, self._keep)

    def _complete(self) -> str | None:
        failure, until = None, self._clock() + self._patience
        while self._job is not None:
            if self._job.writing is not None:
                self._job.writing.exception()  # waits
            failure = self._follow(self._job, until)
            if self._job is not None and self._job.writing is None:
                self._job.ask_at = 0.0
                time.sleep(0.01)
        return failure


class WorkerSaver:
    """Writes to the disk, when the server asks, what the clients of one worker remember.

    Args:
        folder: where the files go.
        run: the run's name; files of other runs are left alone.
        attempts: which attempt at the run this is, and which one took the checkpoint that it continues from. An attempt that ended between
            a worker's file and the server's leaves a file that belongs to no checkpoint.
        rank: this worker's.
        workers: how many there are.
        missing: the ranks whose files are not part of the checkpoint that the run continues from, even if they exist by now.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        attempts: tuple[int, int | None],
        rank: int,
        workers: int,
        missing: Sequence[int] = (),
    ) -> None:
        self._folder, self._run = folder, run
        self._attempt, self._attempt_before = attempts
        self._rank, self._workers, self._missing = rank, workers, missing
        self._round = -1
        self._written: Future[None] | None = None
        self._buffers: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, "checkpoint")

    def save(self, order: Save, remembered: Mapping[str, Tensor]) -> Stage:
        """Begin to write what clients remember now, unless that has begun; return how far it is.

        Args:
            order: names the round of the checkpoint.
            remembered: live tensors by names of the form ``<piece>.<name>.<client>``.
        """
        if order.round != self._round:
            if self._written is not None:
                self._written.exception()  # waits: the buffers are in use
            tensors = snapshot(remembered, self._buffers)
            facts = {"workers": self._workers, "life": self._attempt}
            checkpoint = Checkpoint(self._run, order.round, facts, tensors)
            self._round = order.round
            self._written = self._thread.submit(self._write, checkpoint, order.oldest)
        assert self._written is not None
        if not self._written.done():
            return Stage.WRITING
        if error := self._written.exception():
            log.error("what the clients here remember could not be written: %s", error)
            return Stage.FAILED
        return Stage.SAVED

    def _write(self, checkpoint: Checkpoint, oldest: int) -> None:
        path = self._folder / file_name(checkpoint.round, self._rank)
        if owner(path) not in (self._run, None):
            raise ConfigError(f"{str(path)!r} belongs to another run; name this run's folder with --out.")
        checkpoint.write(self._folder, self._rank)
        prune_worker(self._folder, self._run, self._rank, self._workers, oldest)

    def load(self, round_: int) -> dict[str, Tensor]:
        """Return what the clients of this worker remembered after a round, whichever ranks hosted them then, by name."""
        found: dict[str, Tensor] = {}
        own = self._folder / file_name(round_, self._rank)
        there = set(self._folder.glob(file_name(round_, "*"))) - {
            self._folder / file_name(round_, rank) for rank in self._missing
        }
        for path in sorted(there, key=lambda path: path != own):
            try:
                saved = read_checkpoint(path)
            except Damaged as damage:
                log.warning("%s, which says what clients remember, is damaged (%s); they start afresh.", path, damage)
                continue
            if (saved.run, saved.round, saved.facts.get("life")) != (self._run, round_, self._attempt_before):
                log.warning("%s belongs to another run, or to no checkpoint; it is not used.", path)
                continue
            if any(key.count(".") < 2 for key in saved.tensors):
                raise ConfigError(
                    f"--resume: {str(path)!r} says what clients remember in the form of an earlier byzdist; go on with that version."
                )
            found = {key: tensor for key, tensor in saved.tensors.items() if self._hosts(key)} | found
            if path == own and saved.facts["workers"] == self._workers:
                break
        return found

    def _hosts(self, key: str) -> bool:
        return int(key.rpartition(".")[2]) % self._workers + 1 == self._rank


def snapshot(tensors: Mapping[str, Tensor], buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors into ``buffers`` on the CPU, making those that are missing, and return the copies."""
    for key, tensor in tensors.items():
        held = buffers.get(key)
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
            buffers[key] = held = torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format)
        held.copy_(tensor)
    return {key: buffers[key] for key in tensors}
