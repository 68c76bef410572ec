"""A whole run in this process: ``transport.name: local``."""

import torch

from byzdist.attacks.collusion import Collusion
from byzdist.reporting import logs
from byzdist.runtime.command import RunCommand
from byzdist.runtime.experiment import choose_device, prepare
from byzdist.runtime.identity import claim
from byzdist.runtime.serving import serve
from byzdist.runtime.stopping import signals_given_back
from byzdist.runtime.worker import Worker
from byzdist.storage.saving import WorkerSaver
from byzdist.torch_private import HashStore
from byzdist.transport.local import LocalServer


def run_alone(command: RunCommand) -> int:
    """Run an experiment, server and clients, in this thread; return the exit code.

    Raises:
        ConfigError: before the run has begun.
        RunError: if it fails.
    """
    logs.configure(0)
    config = command.load()
    torch.set_num_threads(config.threads)
    device = choose_device(config, 0)
    experiment, clients = prepare(config, device), prepare(config, device)  # each side with a model of its own
    run = claim(command.out, experiment, command.resume)
    shape = experiment.shape(workers=1)
    saver = None
    if experiment.clients_remember:
        saver = WorkerSaver(run.checkpoints, run.name, run.lives, rank=1, workers=1, missing=run.missing)
    collusion = None
    if experiment.attackers_collude:
        collusion = Collusion(HashStore, shape.dimension, shape.dtype, config.transport.deadline)
    worker = Worker(clients, collusion, saver)
    transport = LocalServer(shape, config.transport.offences)
    transport.connect(worker.handle)
    try:
        with signals_given_back():
            serve(experiment, 1, run, transport)
    finally:
        run.lock.release()
    return 0
