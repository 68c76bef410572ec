"""A whole run in this process: ``transport.name: local``."""

import os

import torch

from byzdist.attacks.collusion import Collusion
from byzdist.config.schema import Config
from byzdist.host.accelerators import choose_device, use
from byzdist.reporting import logs
from byzdist.runtime.caller import COMMAND_LINE, Caller
from byzdist.runtime.command import RunCommand
from byzdist.runtime.experiment import load_private, prepare
from byzdist.runtime.foresight import Foresight
from byzdist.runtime.identity import claim
from byzdist.runtime.logging_out import check_loggers
from byzdist.runtime.rank import Ended
from byzdist.runtime.serving import serve
from byzdist.runtime.stopping import signals_given_back
from byzdist.runtime.worker import Worker
from byzdist.storage.folder import RunFolder
from byzdist.storage.saving import WorkerSaver
from byzdist.torch_private import HashStore
from byzdist.transport.local import LocalServer


def run_alone(command: RunCommand, caller: Caller = COMMAND_LINE) -> Ended:
    """Run an experiment, server and clients, in this thread.

    Raises:
        ConfigError: before the run has begun.
        RunError: if it fails.
    """
    logs.configure(0)
    config = command.load()
    check_loggers(config)
    torch.set_num_threads(config.threads)
    device = choose_device(config.device, int(os.environ.get("LOCAL_RANK", "0")))
    use(device)
    experiment = prepare(config, device)
    run = claim(command.out, experiment, command.resume)
    experiment.read_ahead(server=True)
    try:
        transport = LocalServer(experiment.shape(workers=1), config.transport.offences)
        connect_workers(transport, config, device, 1, run)
        with signals_given_back():
            return Ended(0, run.path, serve(experiment, 1, run, transport, caller))
    finally:
        run.lock.release()


def connect_workers(
    transport: LocalServer, config: Config, device: torch.device, workers: int, run: RunFolder | None
) -> None:
    """Make workers that answer the server's calls, each with a model of its own; without a run's folder they save nothing."""
    channel = HashStore()  # where attackers read honest clients' messages
    made = []
    for rank in range(1, workers + 1):
        with logs.without_advice():  # the server has given it
            experiment = prepare(config, device)
        load_private(experiment, rank, workers)
        experiment.read_ahead()
        shape = experiment.shape(workers)
        collusion = None
        if experiment.attackers_collude:
            collusion = Collusion(lambda: channel, shape.dimension, shape.dtype, config.transport.deadline)
        saver = None
        if run is not None and experiment.clients_remember:
            saver = WorkerSaver(run.checkpoints, run.name, run.attempts, rank, workers, run.missing)
        hosted = experiment.hosted(rank, workers)
        made.append(Worker(experiment, collusion, saver, Foresight.of(experiment, hosted)))
    transport.connect(*(worker.handle for worker in made))
