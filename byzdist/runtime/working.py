"""A worker's part of a run, from its joining to its end."""

from pathlib import Path

from byzdist.attacks.collusion import Collusion
from byzdist.errors import RunError
from byzdist.runtime.experiment import Experiment, load_private
from byzdist.runtime.foresight import Foresight
from byzdist.runtime.joining import Joining
from byzdist.runtime.stopping import Stop, on_signals
from byzdist.runtime.worker import Worker
from byzdist.storage.folder import checkpoints
from byzdist.storage.saving import WorkerSaver
from byzdist.torch_private import PrefixStore, Store
from byzdist.transport.opening import open_worker, waiting_for
from byzdist.transport.store import STORE_PATIENCE, connect


def work(experiment: Experiment, rank: int, workers: int, out: Path | None) -> int:
    """Be a worker until the server ends the run; return the exit code."""
    load_private(experiment, rank, workers)
    experiment.read_ahead()  # before the links are opened, because the forks would keep them open
    joining = Joining(experiment, rank)
    transport = open_worker(experiment.config.transport, experiment.shape(workers), rank, joining.hear)
    stop = Stop(transport.stop_waiting)  # the server is the one to end the run
    on_signals(stop.tell)
    try:
        with waiting_for("the server"):
            goes_on = transport.open()
        if goes_on:
            _worker(experiment, joining, rank, workers, out).run(transport)
    except RunError:
        if not stop.is_told:
            raise
        return 1  # the server was told to end as well, and was faster: it says so for all workers
    finally:
        transport.leave()
    return 0


def _worker(experiment: Experiment, joining: Joining, rank: int, workers: int, out: Path | None) -> Worker:
    collusion = saver = None
    if experiment.attackers_collude:
        shape = experiment.shape(workers)
        collusion = Collusion(_channel, shape.dimension, shape.dtype, experiment.config.transport.deadline)
    if experiment.clients_remember:
        assert out is not None and joining.joined is not None
        run = joining.joined
        saver = WorkerSaver(checkpoints(out), run.run, run.attempts, rank, workers, run.missing)
    hosted = experiment.hosted(rank, workers)
    return Worker(experiment, collusion, saver, Foresight.of(experiment, hosted))


def _channel() -> Store:
    """Return a connection to the part of the job's store that attackers use."""
    return PrefixStore("collusion", connect(STORE_PATIENCE))
