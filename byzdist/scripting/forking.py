"""A run whose processes are forks of a script or of a notebook's kernel, and so have its functions and its data."""

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import torch

from byzdist.errors import ConfigError, RunError
from byzdist.host import speech, supervisor
from byzdist.host.processes import Program
from byzdist.reporting.record import RoundRecord
from byzdist.runtime.caller import Caller
from byzdist.runtime.command import RunCommand
from byzdist.runtime.launcher import Launched, launched
from byzdist.runtime.rank import run_reporting
from byzdist.scripting.channel import Channel
from byzdist.transport.keys import VARIABLES

_THREADS = Path("/proc/self/task")  # on Linux


def train_forked(
    command: RunCommand,
    workers: int | None,
    max_restarts: int,
    on_round: Callable[[RoundRecord], bool] | None,
    shows_progress: bool,
) -> Launched:
    """Run an experiment as forks of this process, and call ``on_round`` here; see `byzdist.runtime.launcher.launched`.

    Raises:
        ConfigError: for a mistake in the configuration, or if forks of this process cannot work.
    """
    _check_forks(command.tree or {})
    channel = Channel(on_round) if on_round is not None else None

    def fork(rank: RunCommand) -> Program:
        return partial(_be_rank, rank, channel, shows_progress)

    say = speech.say if shows_progress else _say_nothing
    try:
        return launched(command, workers, max_restarts, fork, say=say, idle=channel.listen if channel else sleep)
    finally:
        if channel is not None:
            channel.close()


def _say_nothing(text: str) -> None:
    pass


def _be_rank(command: RunCommand, channel: Channel | None, shows_progress: bool) -> int:
    """Run a rank in a fork: the server, the supervisor of a worker, or that worker."""
    torch.set_num_threads(1)  # a fork has no other threads of torch's, and OpenMP would wait for them
    speech.protect()
    is_server = os.environ["RANK"] == "0"
    if channel is not None:
        channel.be_server() if is_server else channel.close()
    supervisor.end_with_agent()
    if supervisor.is_wanted():
        return supervisor.supervise(partial(_be_rank, command, None, shows_progress))
    asks = channel.ask if channel is not None and is_server else None
    try:
        return run_reporting(command, Caller(asks, shows_progress))
    except (ConfigError, RunError) as error:  # another rank failed first
        print(f"byzdist: {error}", file=sys.stderr)
        return supervisor.MISTAKE if isinstance(error, ConfigError) else 1


def _check_forks(tree: Any) -> None:
    """Refuse to fork if the forks could not compute, or would reveal the secret."""
    other = "Use workers=0, which trains in this process and gives the same bits, or start the script with torchrun."
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise ConfigError(
            f"workers: the processes would be forks of this one, but it uses CUDA, which does not work in a fork. {other}"
        )
    if tree.get("threads", 1) != 1 and _has_native_threads():
        raise ConfigError(
            f"threads: {tree['threads']} in forks of this process, in which torch or another library has started threads. Forks do not "
            f"have these, and OpenMP would wait for them forever. Use threads=1. {other}"
        )
    if given := [name for name in VARIABLES if name in os.environ]:
        raise ConfigError(
            f"{given[0]}: the workers would be forks of this process and could read it in their environment. "
            "Remove it: train makes its own secret."
        )


def _has_native_threads() -> bool:
    """Return whether this process has threads that libraries started, or whether that is unknown."""
    try:
        return sum(1 for _ in _THREADS.iterdir()) > threading.active_count()
    except OSError:
        return True
