"""The processes of a run on this machine: they start together, meet on loopback, and end together, whatever happens.

Each rank leads a session of its own, so that a terminal's signals come to it once, from here; and the kernel tells it when this
process is gone. Nothing listens to the network, and nothing that a rank sends is unpickled.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from byzdist.host.processes import LIBRARIES, Process, Program, start
from byzdist.host.signals import Signals
from byzdist.host.supervisor import AGENT, ATTEMPT, MISTAKE, REPORT
from byzdist.transport.keys import KEY, SECRET, VARIABLES, worker_key
from byzdist.transport.store import SOCKET

_LOOK = 0.05  # seconds between two looks at the processes
_SETTLE = 0.2  # seconds: a rank's failure and those that it causes in others within this time count as one
_END_PATIENCE = 10.0  # seconds for the workers once the server has ended well, and for every rank before it is killed
_ORPHAN_PATIENCE = 2.0  # seconds for workers whose server has failed: they have nothing left to finish
_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


@dataclass(frozen=True)
class Failure:
    """The first failure of a run, which ends it; ``is_final`` if it is a user's mistake, so that a restart would fail again."""

    reason: str
    is_final: bool


class Job:
    """1 + ``workers`` processes of a program; use it as a context manager, which ends them.

    Args:
        configuration: the text that each rank reads from its standard input.
        secret: the run's. The server gets it; a worker gets its own key, and wipes the secret if it is a fork.
        patience: seconds in which the ranks must end once a signal has told them to, or one of them has failed.
        signals: those that this process gets meanwhile; each is passed on to the ranks.
        idle: called with some seconds, again and again, while the ranks work.
    """

    def __init__(
        self,
        program: Program,
        configuration: str,
        workers: int,
        secret: bytearray,
        patience: float,
        signals: Signals,
        idle: Callable[[float], None] = time.sleep,
    ) -> None:
        self._program, self._workers, self._secret, self._patience = program, workers, secret, patience
        self._signals, self._idle = signals.came, idle
        self._configuration = (
            tempfile.TemporaryFile()
        )  # without a name nobody can change it, and it is gone when it is closed
        self._configuration.write(configuration.encode())
        self._configuration.flush()
        self._reports = tempfile.TemporaryFile("a+b")  # ranks append to it
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(4096)
        self._ranks: dict[int, Process] = {}

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self._end(_END_PATIENCE)
        for file in (self._configuration, self._reports, self._socket):
            file.close()

    def run(self, attempt: int) -> Failure | None:
        """Start all ranks and wait for their end; None if the server ended well, or all were told to end and did."""
        self._reports.truncate(0)
        for rank in range(1 + self._workers):
            if not self._signals:
                self._ranks[rank] = self._start(rank, attempt)
        passed_on, until = 0, float("inf")
        while self._living():
            for number in self._signals[passed_on:]:
                self._send(number)
                passed_on += 1
                until = min(until, time.monotonic() + self._patience)
            codes = self._codes()
            if 0 in codes or (any(codes.values()) and not self._signals) or time.monotonic() > until:
                break
            self._idle(_LOOK)
        is_good = self._codes().get(0) == 0
        self._wait(_END_PATIENCE if is_good else _SETTLE)
        failure = None if is_good or self._signals else self._first_failure()
        server_is_alive = 0 not in self._codes()  # the server, which has a round to finish
        self._end(_END_PATIENCE if not failure else self._patience if server_is_alive else _ORPHAN_PATIENCE)
        return failure

    def _start(self, rank: int, attempt: int) -> Process:
        size = str(1 + self._workers)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TORCHELASTIC_") and k not in VARIABLES}
        environment |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._socket.getsockname()[1]),
            AGENT: str(os.getpid()),
            ATTEMPT: str(attempt),
            REPORT: str(self._reports.fileno()),
            "GLOO_SOCKET_IFNAME": _LOOPBACK,  # whatever the user has set for runs on several hosts
            "NCCL_SOCKET_IFNAME": _LOOPBACK,
        }
        environment = LIBRARIES | environment
        reports, server = self._reports.fileno(), self._socket.fileno()
        if rank:
            environment[KEY] = worker_key(self._secret, rank).hex()
        else:
            environment[SECRET] = self._secret.decode()
            environment[SOCKET] = str(server)
        keep, close = ([reports], [server]) if rank else ([reports, server], [])
        first = self._forget if rank else _nothing
        return start(self._program, environment, keep=keep, close=close, stdin=self._configuration, first=first)

    def _forget(self) -> None:
        self._secret[:] = bytes(len(self._secret))

    def _codes(self) -> dict[int, int]:
        """Return the exit codes of the ranks that have ended."""
        codes = {rank: process.poll() for rank, process in self._ranks.items()}
        return {rank: code for rank, code in codes.items() if code is not None}

    def _living(self) -> list[Process]:
        return [process for process in self._ranks.values() if process.poll() is None]

    def _send(self, number: int) -> None:
        for process in self._living():
            process.send_signal(number)

    def _wait(self, seconds: float) -> None:
        """Wait for the end of all ranks; a signal meanwhile says that this takes too long."""
        until, told = time.monotonic() + seconds, len(self._signals)
        while self._living() and time.monotonic() < until and len(self._signals) == told:
            self._idle(_LOOK)

    def _end(self, patience: float) -> None:
        """End all processes of the job: by SIGTERM, and by SIGKILL after ``patience`` seconds."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._living():
                self._send(number)
                self._wait(patience)
        self._ranks.clear()

    def _first_failure(self) -> Failure:
        codes = self._codes()
        reports = dict[int, tuple[str, bool]]()
        self._reports.seek(0)
        for line in self._reports:
            with suppress(ValueError, KeyError, TypeError):  # a rank that died while it wrote
                said = json.loads(line)
                reports.setdefault(int(said["rank"]), (str(said["message"]), bool(said["mistake"])))
        killed = {rank: name for rank, code in codes.items() if (name := _signal_of(code))}
        if killed:  # a kill is the cause, and what others report may follow from it
            rank = min(killed)
            reason = f"it was ended by {killed[rank]}"
        elif reports:
            rank, (reason, is_mistake) = next(iter(reports.items()))
            return Failure(f"rank {rank} failed: {reason}", is_mistake)
        else:
            rank = next(rank for rank, code in codes.items() if code)
            reason = f"it ended with exit code {codes[rank]} before it could say why; see its output above"
        return Failure(f"rank {rank} failed: {reason}", codes.get(rank) == MISTAKE)


def _nothing() -> None:
    pass


def _signal_of(code: int) -> str:
    """Return the name of the signal that ended a process, or a worker under its thin parent, by the exit code; else ""."""
    with suppress(ValueError):
        return signal.Signals(-code if code < 0 else code - 128).name
    return ""
