"""Starts a run on this machine: checks the configuration, then starts one server and N workers, and waits for their end.

What was resolved here the ranks use: the configuration comes to them on their standard input, the import path with their command.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from byzdist.config.reading import dump
from byzdist.errors import ConfigError, RunError
from byzdist.host import speech
from byzdist.host.files import read_json
from byzdist.host.processes import Program, call_in_fork
from byzdist.host.supervisor import itself
from byzdist.reporting import logs
from byzdist.runtime.command import RunCommand
from byzdist.runtime.experiment import prepare
from byzdist.runtime.identity import claim
from byzdist.runtime.job import Job
from byzdist.runtime.logging_out import check_loggers
from byzdist.transport.keys import SECRET, SECRET_FILE, new_secret, run_secret

Fork = Callable[[RunCommand], Program]
_DEFAULT_WORKERS = 4
_PATIENCE = 60.0  # seconds, and a round's deadline, in which the ranks are to end once they are told to


class Launched(NamedTuple):
    """A run that has ended: its folder, and the signals that this process got meanwhile."""

    folder: Path
    signals: list[int]


def launch(
    command: RunCommand,
    workers: int | None = None,
    max_restarts: int = 0,
    fork: Fork | None = None,
) -> int:
    """Run the experiment as `launched` does, and say what is started; return the exit code.

    Raises:
        ConfigError: before anything is started.
        RunError: if the run failed, with the first failure's reason, or was told to end before the end of a round.
    """
    _check_end(launched(command, workers, max_restarts, fork, say=speech.say).folder)
    return 0


def launched(
    command: RunCommand,
    workers: int | None,
    max_restarts: int,
    fork: Fork | None,
    *,
    say: Callable[[str], None],
    idle: Callable[[float], None] = time.sleep,
) -> Launched:
    """Run the experiment with 1 + ``workers`` processes, by default as many as the run to resume had.

    Environment, signal handlers and loggers of this process are afterwards what they were.

    Args:
        command: the experiment.
        workers: how many worker processes there are.
        max_restarts: how often all processes are started again when one fails.
        fork: maps a rank's command to what a fork of this process is to call, where it can be forked (see `byzdist.host.processes.start`);
            without it each rank is a new interpreter.
        say: is told what is started.
        idle: what this process does for some seconds while the ranks train.

    Raises:
        ConfigError: before anything is started.
        RunError: if the run failed, with the first failure's reason.
    """
    resolve = partial(_resolve, command, workers)
    with logs.given_back():
        configuration, folder, workers, deadline = (
            call_in_fork(partial(_with_one_thread, resolve)) if fork else resolve()
        )
    say(f"starting {workers} workers; {folder}")
    rank = RunCommand("-", out=Path(folder), resume=command.resume)
    given = SECRET in os.environ or SECRET_FILE in os.environ
    secret = bytearray(run_secret() if given else new_secret().encode())
    program = fork(rank) if fork else itself(rank.words())
    with Job(program, configuration, workers, secret, _PATIENCE + deadline, idle) as job:
        _run(job, max_restarts)
    return Launched(Path(folder), job.signals)


def _with_one_thread(resolve: Callable[[], tuple[str, str, int, float]]) -> tuple[str, str, int, float]:
    """Resolve in a fork: threads that torch has started in this process are not there, and OpenMP would wait for them."""
    torch.set_num_threads(1)
    return resolve()


def _run(job: Job, max_restarts: int) -> None:
    for attempt in range(1 + max_restarts):
        failure = job.run(attempt)
        if failure is None:
            return
        if failure.is_final or attempt == max_restarts:
            raise RunError(failure.reason)


def _resolve(command: RunCommand, workers: int | None) -> tuple[str, str, int, float]:
    """Check all that a run needs; return its resolved configuration, its folder, the number of its workers and a round's deadline.

    Data, model and checkpoint are the processes' to keep.
    """
    logs.leave_advice_to_the_server()
    config = command.load()
    check_loggers(config)
    try:
        experiment = prepare(config, torch.device("cpu"))  # also warms the data cache for the processes to come
    except MemoryError as error:
        raise ConfigError(f"data, model: they do not fit into memory: {error}") from None
    most = config.clients.count
    if workers is not None and workers > most:
        raise ConfigError(f"--workers: {workers} processes for {most} clients; at most one a client.")
    run = claim(command.out, experiment, command.resume)
    run.lock.release()  # the server takes it
    if workers is None:
        workers = run.checkpoint.facts["workers"] if run.checkpoint else min(_DEFAULT_WORKERS, most)
    return dump(config), str(run.path), workers, config.transport.deadline


def _check_end(folder: Path) -> None:
    """Raise RunError where a run whose processes were told to end did not come to the end of a round."""
    if not (folder / "metrics.jsonl").exists():
        raise RunError("the run was interrupted before its first round.")
    summary = folder / "summary.json"
    if not summary.exists() or read_json(summary)["status"] == "failed":
        raise RunError("the run was interrupted within a round.")
