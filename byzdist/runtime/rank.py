"""One process of a run: rank 0 is the parameter server, every other rank a worker."""

import os
from pathlib import Path
from typing import NamedTuple

import torch

from byzdist.errors import ConfigError, RunError
from byzdist.host.accelerators import choose_device, use
from byzdist.host.processes import name_process
from byzdist.host.supervisor import ATTEMPT, MISTAKE, grant, report_failure
from byzdist.reporting import logs
from byzdist.runtime.caller import COMMAND_LINE, Caller
from byzdist.runtime.command import RunCommand
from byzdist.runtime.experiment import Experiment, prepare
from byzdist.runtime.identity import claim
from byzdist.runtime.joining import introduction
from byzdist.runtime.logging_out import check_loggers
from byzdist.runtime.serving import serve
from byzdist.runtime.working import work
from byzdist.transport.opening import open_server
from byzdist.transport.rendezvous import warn_of_torchrun


class Ended(NamedTuple):
    """How a rank's part of a run has ended.

    Attributes:
        code: the exit code for its process.
        folder: the run's; None on a worker.
        signal: the signal that ended the run, if one did and the process continues.
    """

    code: int
    folder: Path | None = None
    signal: int | None = None


def run_reporting(command: RunCommand, caller: Caller = COMMAND_LINE) -> int:
    """Run this process's part, see `run_rank`; return the exit code. A failure is reported to the process that started the rank."""
    try:
        return run_rank(command, caller).code
    except (ConfigError, RunError) as error:
        is_mistake = isinstance(error, ConfigError)
        if report_failure(str(error), is_mistake=is_mistake):
            return MISTAKE if is_mistake else 1
        raise
    except Exception as error:
        report_failure(f"{type(error).__name__}: {error}")
        raise


def run_rank(command: RunCommand, caller: Caller = COMMAND_LINE) -> Ended:
    """Run this process's part, which the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) determines.

    A job that torchrun has restarted resumes by itself.
    """
    rank, workers = _place()
    name_process(f"byzdist-w{rank}" if rank else "byzdist-server")
    logs.configure(rank)
    if rank == 0:
        warn_of_torchrun()
    config = command.load()
    if config.transport.name == "local":
        raise ConfigError(
            "transport.name: local is a run in one process, and this is one rank of several (RANK is set)."
        )
    grant(config.transport.restarts if config.transport.name == "star" else None)
    torch.set_num_threads(config.threads)
    device = choose_device(config.device, int(os.environ.get("LOCAL_RANK", "0")))
    use(device)
    experiment = prepare(config, device)
    _check_out(command.out, experiment)
    if rank:
        return Ended(work(experiment, rank, workers, command.out))
    check_loggers(config)
    run = claim(command.out, experiment, command.resume or int(os.environ.get(ATTEMPT, "0")) > 0)
    try:
        experiment.read_ahead(server=True)
        shape = experiment.shape(workers)
        memory = 2 * shape.max_cohort * shape.dimension * shape.dtype.itemsize if experiment.attackers_collude else 0
        facts = introduction(experiment, run)
        transport = open_server(config.transport, shape, facts, memory)  # before any thread: it forks
        return Ended(0, run.path, serve(experiment, workers, run, transport, caller))
    finally:
        run.lock.release()  # the process may go on to another run


def _place() -> tuple[int, int]:
    """Return this process's rank and the number of worker ranks."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not os.environ.get(name, "").isdecimal():
            raise ConfigError(
                f"{name}: {os.environ.get(name)!r} is not a number; torchrun sets it, or whoever sets RANK."
            )
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not rank < size or size < 2:
        raise ConfigError(f"WORLD_SIZE: {size} with RANK {rank}: a run is a server, rank 0, and at least one worker.")
    return rank, size - 1


def _check_out(out: Path | None, experiment: Experiment) -> None:
    """Make sure that every process that needs the run's folder knows it."""
    if out is None and (experiment.clients_remember or int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0):
        raise ConfigError(
            "--out: name the run's folder, because a restarted job must find its checkpoints, and workers save what their clients "
            "remember."
        )
