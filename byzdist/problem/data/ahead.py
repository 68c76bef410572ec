"""Reading ahead: while this process computes, helper processes read the next batches.

The helpers are forks of this process with their own global generators, and send batches as numbers over a socket: nothing is
unpickled. torch's DataLoader does not suit: it must know all batches beforehand, it pickles them, and when a reader dies, it
raises in the main thread at an arbitrary place.
"""

import json
import math
import os
import select
import signal
import socket
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, tee
from typing import Any, NamedTuple

import torch
from torch import Tensor

from byzdist.errors import RunError
from byzdist.host.processes import Process, die_with_parent, how_it_ended, start
from byzdist.problem.task import Batch


class ReadJob(NamedTuple):
    """One batch to read.

    Attributes:
        reader: the number of the reader that reads it.
        indices: the places of the samples.
        seeds: the seeds of the global generators, see `global_generators`.
        whose: the client that needs it, for errors.
    """

    reader: int
    indices: list[int]
    seeds: list[int]
    whose: str


Read = Callable[[ReadJob], Batch]
_READY = b"ready\n"


class ReadAhead:
    """Processes that read batches, each of them one batch at a time; they end with this object or this process, however that ends.

    Args:
        read: reads one batch; raises RunError if it cannot.
        count: the number of processes.
    """

    def __init__(self, read: Read, count: int) -> None:
        self._helpers: list[_Helper] = []
        for _ in range(count):
            self._helpers.append(_Helper(read, [helper.socket.fileno() for helper in self._helpers]))
        self._idle = deque(self._helpers)
        self._asked = deque[_Helper]()  # reading batches that are needed, in the order in which they are needed
        self._vain = deque[_Helper]()  # reading batches that are no longer needed
        self._plan: Iterator[ReadJob] = iter(())
        self.close = weakref.finalize(self, _end, self._helpers, os.getpid())

    def expect(self, jobs: Iterable[ReadJob]) -> None:
        """Announce the next batches, and start to read the first ones; batches already being read count if they are the same."""
        plan, kept = iter(jobs), deque[_Helper]()
        while self._asked and (job := next(plan, None)) is not None:
            if self._asked[0].job != job:
                plan = chain([job], plan)
                break
            kept.append(self._asked.popleft())
        self._vain += self._asked
        self._asked, self._plan = kept, plan
        self._fill()

    def batches(self, jobs: Iterable[ReadJob]) -> Iterator[tuple[ReadJob, Batch]]:
        """Yield these jobs with their batches; unless they were announced, they are read ahead from now on."""
        wanted, ahead = tee(jobs)
        for number, job in enumerate(wanted):
            if number == 0 and not self._is_next(job):
                self.expect(ahead)
            if number == 0:
                del ahead  # because `tee` would keep all jobs for it
            yield job, self._take(job)

    def _is_next(self, job: ReadJob) -> bool:
        return bool(self._asked) and self._asked[0].job == job

    def _take(self, job: ReadJob) -> Batch:
        if not self._asked:  # all helpers may be reading batches that are no longer needed
            self._fill(patient=True)
        if not self._is_next(job):
            self.expect([job])
            self._fill(patient=True)
        helper = self._asked.popleft()
        try:
            return helper.receive()
        finally:
            self._idle.append(helper)
            self._fill()

    def _fill(self, *, patient: bool = False) -> None:
        """Give the next jobs to idle helpers; with ``patient``, wait for a helper if none is reading a needed batch."""
        while True:
            if not self._idle and self._vain and ((patient and not self._asked) or self._vain[0].has_answered):
                helper = self._vain.popleft()
                with suppress(RunError):  # an error in a batch that is not needed
                    helper.receive()
                self._idle.append(helper)
            if not self._idle or (job := next(self._plan, None)) is None:
                return
            helper = self._idle.popleft()
            helper.ask(job)
            self._asked.append(helper)


class _Helper:
    """One helper process, and its current job.

    Args:
        read: as for `ReadAhead`.
        close: descriptors that the process must not inherit.
    """

    def __init__(self, read: Read, close: Sequence[int]) -> None:
        self.job: ReadJob | None = None
        me, (self.socket, theirs) = os.getpid(), socket.socketpair()

        def program() -> int:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the round in progress still needs batches
                signal.signal(number, signal.SIG_IGN)
            torch.set_num_threads(1)  # a fork does not have OpenMP's other threads
            with suppress(OSError):
                theirs.sendall(_READY)
            _serve(theirs, read)
            return 0

        self._file = self.socket.makefile("rwb")
        self._process: Process = start(
            program, dict(os.environ), close=[*close, self.socket.fileno()], first=lambda: die_with_parent(me)
        )
        theirs.close()
        self._file.readline()  # _READY: from now on signals leave it alone; or nothing if it is gone, as `receive` will report

    @property
    def has_answered(self) -> bool:
        """Whether an answer has begun to arrive."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def ask(self, job: ReadJob) -> None:
        """Give the process a job; it must be idle."""
        self.job = job
        with suppress(OSError):  # the process is gone, and `receive` will raise
            self._file.write(json.dumps(job).encode() + b"\n")
            self._file.flush()

    def receive(self) -> Batch:
        """Wait for the batch.

        Raises:
            RunError: if it cannot be read, or the process is gone.
        """
        assert self.job is not None, "nothing was asked"
        job, self.job = self.job, None
        try:
            form = json.loads(self._file.readline())
            tensors = [self._tensor(*facts) for facts in form.get("tensors", [])]
        except (OSError, ValueError):
            raise RunError(f"data: {self._end()} while it read a batch for {job.whose}.") from None
        if "error" in form:
            raise RunError(form["error"])
        return _built(form["batch"], tensors)

    def _tensor(self, dtype: str, shape: list[int]) -> Tensor:
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        if tensor.numel() and self._file.readinto(_bytes(tensor)) != tensor.nbytes:
            raise OSError("the process ended in the middle of a batch")
        return tensor

    def _end(self) -> str:
        return f"a process that reads ahead (data.workers) {how_it_ended(self._process.wait())}"

    def end(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        with suppress(OSError):  # its buffer may hold a job that cannot be sent any more
            self._file.close()
        self.socket.close()


def _end(helpers: list[_Helper], owner: int) -> None:
    for helper in helpers if os.getpid() == owner else ():  # a fork also runs this when it ends
        helper.end()


def _serve(connection: socket.socket, read: Read) -> None:
    """Answer jobs until the other end is closed."""
    with suppress(OSError), connection.makefile("rwb") as file:
        for line in file:
            tensors: list[Tensor] = []
            try:
                form = _form(read(ReadJob(*json.loads(line))), tensors)
            except RunError as error:
                answer: dict[str, Any] = {"error": str(error)}
                tensors.clear()
            else:
                kinds = [(str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for tensor in tensors]
                answer = {"batch": form, "tensors": kinds}
            file.write(json.dumps(answer).encode() + b"\n")
            for tensor in tensors:
                if tensor.numel():
                    file.write(_bytes(tensor))
            file.flush()


def check_form(batch: Batch) -> None:
    """Raise RunError unless a batch can be sent between processes."""
    _form(batch, [])


def _form(part: Any, tensors: list[Tensor]) -> Any:
    """Return a batch as JSON; its tensors are appended to ``tensors``, and their positions there replace them."""
    if isinstance(part, Tensor):
        tensors.append(part.detach().cpu().contiguous())
        return len(tensors) - 1
    if isinstance(part, Mapping) and all(isinstance(key, str) for key in part):
        return {key: _form(value, tensors) for key, value in part.items()}
    if type(part) in (tuple, list):
        return [type(part).__name__, *(_form(value, tensors) for value in part)]
    if part is None or type(part) in (str, bool) or (type(part) in (int, float) and math.isfinite(part)):
        return ["value", part]
    raise RunError(
        f"data.workers: a batch has a {type(part).__name__} in it. To be read ahead, batches must consist of tensors, plain numbers and "
        "texts, in tuples, lists and mappings; change collate, or set data.workers to 0."
    )


def _built(form: Any, tensors: Sequence[Tensor]) -> Any:
    """Return the batch for a form that `_form` made."""
    if isinstance(form, int):
        return tensors[form]
    if isinstance(form, dict):
        return {key: _built(value, tensors) for key, value in form.items()}
    kind, *parts = form
    if kind == "value":
        return parts[0]
    built = [_built(part, tensors) for part in parts]
    return tuple(built) if kind == "tuple" else built


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
