"""One process of a run: rank 0 is the parameter server, every other rank a worker."""

import hashlib
import json
import os
import platform
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from byzdist import __version__, logs
from byzdist.attacks.assignment import assignments
from byzdist.attacks.collusion import Collusion
from byzdist.config import Config, dump, load
from byzdist.data import load as load_data
from byzdist.data import write_table
from byzdist.errors import ConfigError, RunError
from byzdist.evaluation import Evaluator
from byzdist.experiment import Experiment, choose_device, prepare
from byzdist.export import save_model
from byzdist.launcher import new_folder, report_failure
from byzdist.metrics import Line, Metrics
from byzdist.optimum import find
from byzdist.progress import Progress
from byzdist.prometheus import VARIABLE as SCRAPED, Prometheus
from byzdist.server import Server
from byzdist.supervisor import grant
from byzdist.transport.opening import Agree, open_server, open_worker
from byzdist.worker import Worker


def run_rank(path: str, overrides: Sequence[str], out: Path | None) -> int:
    """Run this process's part, as the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) says; return the exit code."""
    rank, workers = _place()
    try:
        logs.configure(rank)
        config = load(path, overrides)
        if config.transport.name == "star":
            grant(config.transport.restarts)
        torch.set_num_threads(config.threads)
        device = choose_device(config, int(os.environ.get("LOCAL_RANK", "0")))
        experiment = prepare(config, device)
        agree = partial(_agree, rank=rank, config=config)
        if rank == 0:
            _serve(experiment, workers, agree, out)
        else:
            _work(experiment, rank, workers, agree)
    except Exception as error:
        report_failure(str(error) if isinstance(error, ConfigError | RunError) else f"{type(error).__name__}: {error}")
        raise
    return 0


def _place() -> tuple[int, int]:
    """Return this process's rank and the number of worker ranks."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not os.environ.get(name, "").isdecimal():
            raise ConfigError(f"{name}: {os.environ.get(name)!r} is no number; torchrun, or whoever sets RANK, sets it.")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not rank < size or size < 2:
        raise ConfigError(f"WORLD_SIZE: {size} with RANK {rank}: a run is a server, rank 0, and at least one worker.")
    return rank, size - 1


def _agree(store: dist.Store, rank: int, config: Config) -> None:
    """Make sure that every rank runs the same experiment."""
    mine = hashlib.sha256(dump(config).encode()).hexdigest()
    if rank == 0:
        store.set("configuration", mine)
    elif store.get("configuration").decode() != mine:
        raise ConfigError(
            f"the configuration of rank {rank} is not the server's; give every rank the same file and overrides."
        )


def _serve(experiment: Experiment, workers: int, agree: Agree, out: Path | None) -> None:
    config = experiment.config
    transport = open_server(config.transport, experiment.shape(workers), agree)  # first, for it may fork
    folder = out or new_folder(config, None)
    folder.mkdir(parents=True, exist_ok=True)
    _describe(experiment, workers, folder)
    evaluator = Evaluator(
        experiment.oracle,
        experiment.dataset,
        config.clients.good,
        optimum=None if config.evaluate.samples else _optimum(experiment),  # an estimate of f has no gap to speak of
        samples=config.evaluate.samples,
        seed=config.seed,
    )
    metrics = Metrics(folder)
    with Progress(config, folder) as progress:
        server = Server(experiment, transport, metrics, evaluator.evaluate, _watchers(config, progress))
        _stop_on_signals(server)
        status = "failed"
        try:
            transport.open()
            status = server.run()
            transport.stop()
            save_model(experiment.oracle.model, server.x, folder)
        finally:
            summary = metrics.close(status)
        progress.finish(summary)


def _watchers(config: Config, progress: Progress) -> Callable[[Line, Metrics], None]:
    """Return what is told of each round: whoever looks at the screen, and whoever scrapes metrics."""
    path = os.environ.get(SCRAPED)
    if not path:
        return progress.show
    scraped = Prometheus(Path(path), config.name, config.rounds)

    def show(line: Line, metrics: Metrics) -> None:
        progress.show(line, metrics)
        scraped.show(line, metrics)

    return show


def _optimum(experiment: Experiment) -> float | None:
    """Return f(x*), found in float64 whatever the dtype of the run; None where the model is not convex."""
    config, dataset = experiment.config, experiment.dataset
    if config.dtype != "float64":
        dataset = load_data({key: value for key, value in config.data.items() if key != "split"}, dtype="float64")
    return find(config.model, dataset, experiment.split, config.clients.good)


def _stop_on_signals(server: Server) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        server.stop()
        signal.signal(number, signal.SIG_DFL)  # the second one ends the process at once

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _work(experiment: Experiment, rank: int, workers: int, agree: Agree) -> None:
    config, shape = experiment.config, experiment.shape(workers)
    transport, store = open_worker(config.transport, shape, rank, agree)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: transport.let_go())  # it is for the server to end the run
    collusion = None
    if any(entry.has("omniscient") for entry in assignments(config)):
        collusion = Collusion(
            dist.PrefixStore("collusion", store), shape.dimension, shape.dtype, config.transport.deadline
        )
    worker = Worker(config, rank, workers, experiment.oracle, experiment.method, experiment.compressors, collusion)
    worker.run(transport)


def _describe(experiment: Experiment, workers: int, folder: Path) -> None:
    """Write what the run is: config.yaml, run.json and clients.csv."""
    config = experiment.config
    facts = {
        "byzdist": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seed": config.seed,
        "workers": workers,
        "parameters": experiment.oracle.dimension,
        "method": {key: value for key, value in vars(experiment.method).items() if key != "memory"},
        "device": str(experiment.device),
        "threads": config.threads,
        "host": {
            "name": platform.node(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "system": platform.platform(),
        },
    }
    (folder / "config.yaml").write_text(dump(config))
    (folder / "run.json").write_text(json.dumps(facts, indent=2) + "\n")
    labels, classes = experiment.dataset.labels, experiment.dataset.classes
    write_table(experiment.split.table(labels, classes), folder / "clients.csv")
