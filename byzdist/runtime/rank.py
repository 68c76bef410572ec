"""One process of a run: rank 0 is the parameter server, every other rank a worker."""

import _thread
import ctypes
import hashlib
import json
import logging
import os
import platform
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from byzdist import __version__
from byzdist.attacks.assignment import assignments
from byzdist.attacks.collusion import Collusion
from byzdist.config.reading import dump, load
from byzdist.config.schema import Config
from byzdist.errors import ConfigError, RunError
from byzdist.host.files import write_text
from byzdist.host.processes import call_process
from byzdist.host.supervisor import ATTEMPT, GONE, grant
from byzdist.problem.data import load as load_data
from byzdist.problem.data import write_table
from byzdist.problem.evaluation import Evaluator
from byzdist.problem.optimum import can_be_found, find
from byzdist.reporting import logs
from byzdist.reporting.metrics import Line, Metrics
from byzdist.reporting.progress import Progress
from byzdist.reporting.prometheus import VARIABLE as SCRAPED
from byzdist.reporting.prometheus import Prometheus
from byzdist.runtime import advice, agreement
from byzdist.runtime.divergence import Diverged, Guard
from byzdist.runtime.experiment import Experiment, choose_device, prepare
from byzdist.runtime.identity import claim, identity
from byzdist.runtime.server import Server
from byzdist.runtime.vanishing import Watch
from byzdist.runtime.worker import Worker
from byzdist.storage.folder import CONFIG, RUN, RunFolder, checkpoints
from byzdist.storage.saving import ServerSaver, WorkerSaver
from byzdist.torch_private import PrefixStore, Store
from byzdist.transport.base import ServerEnd, WorkerEnd
from byzdist.transport.opening import open_server, open_worker, waiting_for
from byzdist.transport.rendezvous import warn_of_torchrun
from byzdist.transport.store import STORE_PATIENCE, connect
from byzdist.transport.waiting import Waiting

log = logging.getLogger(__name__)
# Seconds in which signals are one and the same: systemd, Slurm and containers tell every process, and torchrun's agent passes it on.
_SAME_SIGNAL = 2.0
_SYSTEM_SIGNAL = ctypes.CDLL(None).signal  # Python's is for the main thread, which may be waiting for a peer


def run_rank(path: str, overrides: Sequence[str], out: Path | None, resume: bool) -> int:
    """Run this process's part, as the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) says; return the exit code.

    A job that torchrun has restarted resumes by itself.
    """
    rank, workers = _place()
    call_process(f"byzdist-w{rank}" if rank else "byzdist-server")
    logs.configure(rank)
    if rank == 0:
        warn_of_torchrun()
    config = load(path, overrides)
    grant(config.transport.restarts if config.transport.name == "star" else None)
    torch.set_num_threads(config.threads)
    device = choose_device(config, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # nccl's, too
    experiment = prepare(config, device)
    _check_out(out, experiment)
    if rank:
        return _work(experiment, rank, workers, out)
    resume |= int(os.environ.get(ATTEMPT, "0")) > 0
    run = claim(out, experiment, resume)
    shape = experiment.shape(workers)
    facts = _facts(experiment, run, shape.device.type)
    memory = 2 * shape.max_cohort * shape.dimension * shape.dtype.itemsize if _colludes(config) else 0
    transport = open_server(config.transport, shape, facts, memory)  # before any thread: it forks
    serve(experiment, workers, run, transport)
    return 0


def _place() -> tuple[int, int]:
    """Return this process's rank and the number of worker ranks."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not os.environ.get(name, "").isdecimal():
            raise ConfigError(
                f"{name}: {os.environ.get(name)!r} is no number; torchrun, or whoever sets RANK, sets it."
            )
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not rank < size or size < 2:
        raise ConfigError(f"WORLD_SIZE: {size} with RANK {rank}: a run is a server, rank 0, and at least one worker.")
    return rank, size - 1


def _check_out(out: Path | None, experiment: Experiment) -> None:
    """Make sure that every process knows the run's folder where it needs it."""
    if out is None and (experiment.clients_remember or int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0):
        raise ConfigError(
            "--out: name the run's folder, for a job that is restarted has to find its checkpoints, and the workers save what "
            "their clients remember."
        )


def _digest(config: Config) -> str:
    return hashlib.sha256(dump(config, paths=False).encode()).hexdigest()


def _colludes(config: Config) -> bool:
    """Return whether attackers look at honest messages, in the job's store."""
    return any(entry.has("omniscient") for entry in assignments(config.attacks, config.clients.bad))


def _facts(experiment: Experiment, run: RunFolder, links: str) -> str:
    """Return what the workers are told: which experiment this is, where messages lie, and what run it goes on with.

    Of the run they learn its name, its lives, and whose part its checkpoint lacks.
    """
    facts = {"configuration": _digest(experiment.config), "links": links, "data": agreement.facts(experiment)}
    return json.dumps(facts | {"run": run.name, "lives": run.lives, "missing": run.missing})


def _agree(facts: str, told: dict[str, Any], rank: int, experiment: Experiment, links: str) -> None:
    """Take in what the server tells; make sure that this rank runs the server's experiment, and that the two can talk."""
    before = told.get("lives")
    told.update(json.loads(facts))
    if before not in (None, told["lives"]):
        raise RunError("the server was started again, and goes on from another point; start this worker again as well.")
    if told["configuration"] != _digest(experiment.config):
        raise ConfigError(
            f"the configuration of rank {rank} is not the server's; give every rank the same file and overrides."
        )
    if told["links"] != links:
        raise ConfigError(
            f"device: messages of rank {rank} lie in {links} memory, and the server's in {told['links']} memory; give every rank a GPU "
            "of its own or none (device=cpu), or use transport.name=star."
        )
    agreement.compare(agreement.facts(experiment), told["data"], rank, shared=experiment.split.shared)


def serve(experiment: Experiment, workers: int, run: RunFolder, transport: ServerEnd) -> None:
    """Be the parameter server: begin the run, or go on with it, and leave its results in its folder."""
    config = experiment.config
    try:
        _describe(experiment, workers, run)
        metrics = Metrics(run.path, run.checkpoint.facts["metrics"] if run.checkpoint else None)
    except OSError as error:
        raise RunError(f"{str(error.filename or run.path)!r} cannot be written: {error.strerror or error}.") from None
    advice.of_run(experiment)
    evaluator = Evaluator(
        experiment.oracle,
        experiment.dataset,
        config.clients.good,
        optimum=None if config.evaluate.samples else _optimum(experiment),  # an estimate of f has no gap to speak of
        samples=config.evaluate.samples,
        seed=config.seed,
    )
    saver = ServerSaver(
        run.checkpoints,
        run.name,
        config.checkpoint,
        identity(experiment) | {"workers": workers, "life": run.lives[0]},
        transport if experiment.clients_remember else None,
        metrics.sync,
        run.checkpoint.round if run.checkpoint else -1,
    )
    guard = Guard(config, metrics)
    with logs.kept_in(run.path), Progress(config, run.path) as progress:
        watch = Watch(run, lambda: _describe(experiment, workers, run), lambda: server.stop())
        watchers = _watchers(config, progress)

        def after_round(line: Line, metrics: Metrics) -> None:
            for watcher in watchers:
                watcher(line, metrics)
            watch.look(metrics, saver, at_once=line["round"] == config.rounds)
            guard.watch(line, server.x)

        server = Server(experiment, transport, metrics, evaluator.evaluate, after_round, saver)
        _on_signals(server.stop)
        status, reason = "failed", ""
        diverged: Diverged | None = None
        try:
            with Waiting(lambda: _name(transport.absent()), config.transport.join_timeout):
                transport.open()
            if absent := _name(transport.absent()):
                log.warning("%s not joined; the run begins without", f"{absent} {'have' if ',' in absent else 'has'}")
            if run.checkpoint is not None:
                log.info("going on after round %d", run.checkpoint.round)
                server.resume(run.checkpoint, run.checkpoint.facts["workers"] == workers)
                guard.resume(server.round, server.x)
                run.checkpoint = None  # it is as large as the server's own state
            try:
                ended = server.run()
                ended, reason = guard.verdict(ended, server.round)
            except Diverged as error:
                ended, reason, diverged, guard.is_good = "diverged", str(error), error, False
            guard.save(experiment.oracle.model, server.x, run.path, server.round)  # before a link can break at the end
            transport.stop()
            status = ended
        except RunError as error:
            reason = str(error)
            raise
        finally:
            summary = metrics.close(status, reason)
        watch.finish(server.round)
        progress.finish(summary)
        if diverged is not None:
            raise diverged


def _watchers(config: Config, progress: Progress) -> Sequence[Callable[[Line, Metrics], None]]:
    """Return what is told of each round: whoever looks at the screen, and whoever scrapes metrics."""
    path = os.environ.get(SCRAPED)
    return [progress.show, *([Prometheus(Path(path), config.name, config.rounds).show] if path else [])]


def _optimum(experiment: Experiment) -> float | None:
    """Return f(x*), found in float64 whatever the dtype of the run; None where it is not looked for."""
    if not can_be_found(experiment.oracle):
        return None
    config, dataset = experiment.config, experiment.dataset
    if config.dtype != "float64":
        dataset = load_data({key: value for key, value in config.data.items() if key != "split"}, dtype="float64")
    return find(config.model, dataset, experiment.split, config.clients.good)


def _on_signals(told: Callable[[], None]) -> None:
    """Have ``told`` called when this process is told to end; the second SIGINT or SIGTERM, seconds later, ends it at once."""

    def first(number: int, frame: FrameType | None) -> None:
        told()
        if number != GONE:  # which the kernel sends for each thread of an agent that is gone
            for repeated in (signal.SIGINT, signal.SIGTERM):
                signal.signal(repeated, signal.SIG_IGN)
            _thread.start_new_thread(heed_again, ())  # the signal may have come amid threading's own locks

    def heed_again() -> None:
        time.sleep(_SAME_SIGNAL)
        for fatal in (signal.SIGINT, signal.SIGTERM):
            _SYSTEM_SIGNAL(fatal, None)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, GONE):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, first)


def _work(experiment: Experiment, rank: int, workers: int, out: Path | None) -> int:
    config, shape = experiment.config, experiment.shape(workers)
    told: dict[str, Any] = {}
    agree = partial(_agree, told=told, rank=rank, experiment=experiment, links=shape.device.type)
    transport = open_worker(config.transport, shape, rank, agree)
    ends = list[bool]()

    def end() -> None:  # it is for the server to end the run
        ends.append(True)
        transport.stop_waiting()

    _on_signals(end)
    try:
        _serve_requests(transport, experiment, rank, workers, out, told)
    except RunError:
        if not ends:
            raise
        return 1  # the server, told to end as well, was faster: nobody needs to hear of it from each worker
    return 0


def _serve_requests(
    transport: WorkerEnd, experiment: Experiment, rank: int, workers: int, out: Path | None, told: dict[str, Any]
) -> None:
    config, shape = experiment.config, experiment.shape(workers)
    with waiting_for("the server"):
        if not transport.open():
            return
    collusion = None
    if _colludes(config):
        collusion = Collusion(_channel, shape.dimension, shape.dtype, config.transport.deadline)
    saver = None
    if experiment.clients_remember:
        assert out is not None
        saver = WorkerSaver(checkpoints(out), told["run"], told["lives"], rank, workers, told["missing"])
    method, compressors = experiment.method, experiment.compressors
    worker = Worker(config, experiment.oracle, method, compressors, collusion, saver)
    worker.run(transport)


def _channel() -> Store:
    """Return a connection to the part of the job's store that attackers use."""
    return PrefixStore("collusion", connect(STORE_PATIENCE))


def _name(workers: Sequence[int]) -> str:
    """Return "worker 3", "workers 3, 5", or ""."""
    return f"worker{'s'[: len(workers) > 1]} {', '.join(map(str, workers))}" if workers else ""


def _describe(experiment: Experiment, workers: int, run: RunFolder) -> None:
    """Write what the run is: run.json, config.yaml and clients.csv."""
    config, folder = experiment.config, run.path
    described = {
        "run": run.name,
        "resumed_after": run.resumed_after,
        "byzdist": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seed": config.seed,
        "workers": workers,
        "parameters": experiment.oracle.dimension,
        "method": {key: value for key, value in vars(experiment.method).items() if key != "state"},
        "device": str(experiment.device),
        "threads": config.threads,
        "host": {
            "name": platform.node(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "system": platform.platform(),
        },
    }
    write_text(folder / RUN, json.dumps(described, indent=2) + "\n")
    write_text(folder / CONFIG, dump(config))
    (folder / "summary.json").unlink(missing_ok=True)  # it is there when the run has ended
    labels, classes = experiment.dataset.labels, experiment.dataset.classes
    write_table(experiment.split.table(labels, classes), folder / "clients.csv")
