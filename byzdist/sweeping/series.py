"""Runs one after another in ONE set of processes: a server and workers, forks of this process, that train run after run."""

import itertools
import mmap
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from byzdist.errors import ConfigError, RunError
from byzdist.host import supervisor
from byzdist.host.signals import Signals
from byzdist.runtime.caller import Caller
from byzdist.runtime.command import RunCommand
from byzdist.runtime.job import Job
from byzdist.runtime.launcher import DEFAULT_WORKERS, PATIENCE
from byzdist.runtime.rank import run_rank
from byzdist.scripting.leaving import undisturbed
from byzdist.sweeping.checking import Planned
from byzdist.sweeping.ranks import Output, say_reason
from byzdist.transport.keys import new_secret
from byzdist.transport.store import SERIES, SOCKET, dismiss

_LOOK = 0.01  # seconds between a worker's looks at where the series is


class _Place:
    """Where the series is, in memory that all its processes share: a worker that is started again goes on from there."""

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")

    @property
    def run(self) -> int:
        """The number of the run in progress."""
        return int(self._numbers[0])

    @run.setter
    def run(self, number: int) -> None:
        self._numbers[0] = number

    @property
    def is_over(self) -> bool:
        """Whether the server was told to end."""
        return bool(self._numbers[1])

    def end(self) -> None:
        """Have all processes end after the run in progress."""
        self._numbers[1] = 1


@dataclass(frozen=True)
class _Series:
    """What each rank knows; ``said`` has a line ``NUMBER REASON`` for a run that the server could not train."""

    runs: Sequence[Planned]
    folder: Path
    place: _Place
    output: Output
    said: Output

    def train(self, number: int) -> int | None:
        """Do this rank's part of a run, and leave the process as it was; return the signal that ended the run, if one did."""
        os.environ[SERIES] = str(number)  # sets the names in the store apart
        run = self.runs[number]
        out = self.folder / run.name
        with undisturbed():
            command = RunCommand("-", out=out, resume=out.exists(), tree=run.tree)
            return run_rank(command, Caller(shows_progress=False, lives_on=True)).signal


def train_in_turn(
    runs: Sequence[Planned],
    folder: Path,
    workers: int | None,
    signals: Signals,
    look: Callable[[Sequence[str]], None],
    ended: Callable[[Planned, str], None],
) -> None:
    """Train runs of transport ``star`` or ``collective``; if a process dies, that run has failed, and a new set goes on.

    Args:
        runs: in the order in which they are trained.
        folder: the sweep's.
        workers: how many worker processes there are; None: 4, or one for each client.
        signals: those of this process.
        look: see `byzdist.sweeping.pool.train_side_by_side`.
        ended: likewise.
    """
    workers = workers or min(DEFAULT_WORKERS, *(run.config.clients.count for run in runs))
    series = _Series(runs, folder, _Place(), Output(), Output())
    told = 0

    def follow(seconds: float = 0.0) -> None:
        nonlocal told
        while told < series.place.run:
            ended(runs[told], series.said.lines().get(str(told), ""))
            told += 1
        look([run.name for run in runs[told : told + 1]])
        time.sleep(seconds)

    patience = PATIENCE + max(run.config.transport.deadline for run in runs)
    secret = bytearray(new_secret().encode())
    with Job(partial(_be_rank, series), "", workers, secret, patience, signals, follow) as job:
        for attempt in itertools.count():
            failure = job.run(attempt)
            follow()
            if signals.came or told == len(runs):
                break
            assert failure is not None, "the server ends well after the last run only"
            ended(runs[told], failure.reason)
            told = series.place.run = told + 1
            if told == len(runs):
                break
    if signals.came and told < len(runs):
        ended(runs[told], "")


def _be_rank(series: _Series) -> int:
    """Be a rank, in a fork: the server, or the thin parent of a worker, or that worker."""
    torch.set_num_threads(1)
    series.output.take()
    supervisor.end_with_agent()
    if supervisor.is_wanted():
        return supervisor.supervise(partial(_work, series))
    return _serve(series) if os.environ["RANK"] == "0" else _work(series)


def _serve(series: _Series) -> int:
    socket, place = int(os.environ[SOCKET]), series.place
    while place.run < len(series.runs):
        os.environ[SOCKET] = str(os.dup(socket))  # the store of each run closes its own
        try:
            if series.train(place.run) is not None:
                place.end()
                return 0
        except (ConfigError, RunError) as error:
            series.said.write(f"{place.run} {error}")
        dismiss()
        place.run += 1
    return 0


def _work(series: _Series) -> int:
    place, done = series.place, -1
    while not place.is_over and (number := place.run) < len(series.runs):
        if number == done:
            time.sleep(_LOOK)
            continue
        try:
            series.train(number)
        except (ConfigError, RunError) as error:  # the server says how the run has ended, and goes on to the next
            say_reason(error)
        done = number
    return 0
