"""Starts a run on this machine: checks the configuration, then starts one server and N workers, and waits for their end.

The ranks use what is resolved here: they read the configuration from standard input, and their command holds the import path.
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
from byzdist.host.signals import Signals
from byzdist.host.supervisor import own_command
from byzdist.reporting import logs
from byzdist.runtime.command import RunCommand
from byzdist.runtime.experiment import prepare
from byzdist.runtime.identity import claim
from byzdist.runtime.job import Job
from byzdist.runtime.logging_out import check_loggers
from byzdist.storage.folder import METRICS, SUMMARY
from byzdist.transport.keys import SECRET, SECRET_FILE, new_secret, run_secret

Fork = Callable[[RunCommand], Program]
DEFAULT_WORKERS = 4
PATIENCE = 60.0  # seconds, in addition to a round's deadline, in which ranks must end once they are told to


class Launched(NamedTuple):
    """A run that has ended: its folder, and the signals that this process got during the run."""

    folder: Path
    signals: list[int]


def launch(
    command: RunCommand,
    workers: int | None = None,
    max_restarts: int = 0,
    fork: Fork | None = None,
) -> int:
    """Run the experiment as `launched` does, and print what is started; return the exit code.

    Raises:
        ConfigError: before anything is started.
        RunError: if the run failed, with the first failure's reason, or was told to end and did not complete a round.
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

    Environment, signal handlers and loggers of this process are restored afterwards.

    Args:
        command: the experiment.
        workers: the number of worker processes.
        max_restarts: how often all processes are started again after one fails.
        fork: maps a rank's command to the function that a fork of this process calls, if it can be forked (see
            `byzdist.host.processes.start`); without it each rank is a new interpreter.
        say: called with a line about what is started.
        idle: called with some seconds, again and again, while the ranks train.

    Raises:
        ConfigError: before anything is started, or if a rank's own data or files are at fault.
        RunError: if the run failed, with the first failure's reason.
    """
    resolve = partial(_resolve, command, workers)
    with logs.given_back():
        resolved = call_in_fork(partial(_with_one_thread, resolve)) if fork else resolve()
    configuration, folder, workers, deadline = resolved
    say(f"starting {workers} workers; {folder}")
    rank = RunCommand("-", out=Path(folder), resume=command.resume)
    given = SECRET in os.environ or SECRET_FILE in os.environ
    secret = bytearray(run_secret() if given else new_secret().encode())
    program = fork(rank) if fork else own_command(rank.words())
    with Signals() as signals, Job(program, configuration, workers, secret, PATIENCE + deadline, signals, idle) as job:
        _run(job, max_restarts)
    return Launched(Path(folder), signals.came)


def _with_one_thread(resolve: Callable[[], tuple[str, str, int, float]]) -> tuple[str, str, int, float]:
    """Resolve the configuration in a fork. It has no other threads of torch's, and OpenMP would wait for them."""
    torch.set_num_threads(1)
    return resolve()


def _run(job: Job, max_restarts: int) -> None:
    for attempt in range(1 + max_restarts):
        failure = job.run(attempt)
        if failure is None:
            return
        if failure.is_final:
            raise ConfigError(failure.reason)
        if attempt == max_restarts:
            raise RunError(failure.reason)


def _resolve(command: RunCommand, workers: int | None) -> tuple[str, str, int, float]:
    """Check all that a run needs; return its resolved configuration, its folder, the number of its workers and a round's deadline.

    This process keeps neither data nor model nor checkpoint: the ranks load them.
    """
    logs.leave_advice_to_the_server()
    config = command.load()
    check_loggers(config)
    try:
        experiment = prepare(config, torch.device("cpu"))  # also warms the data cache for the processes to come
    except MemoryError as error:
        raise ConfigError(f"data, model: they do not fit into memory: {error}") from None
    clients = config.clients.count
    if workers is not None and workers > clients:
        raise ConfigError(f"--workers: {workers} processes for {clients} clients; at most one a client.")
    run = claim(command.out, experiment, command.resume)
    run.lock.release()  # the server takes it
    if workers is None:
        workers = run.checkpoint.facts["workers"] if run.checkpoint else min(DEFAULT_WORKERS, clients)
    return dump(config), str(run.path), workers, config.transport.deadline


def _check_end(folder: Path) -> None:
    """Raise RunError if a run whose processes were told to end did not complete a round."""
    if not (folder / METRICS).exists():
        raise RunError("the run was interrupted before its first round.")
    summary = folder / SUMMARY
    if not summary.exists() or read_json(summary)["status"] == "failed":
        raise RunError("the run was interrupted within a round.")
