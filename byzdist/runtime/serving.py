"""The server's part of a run: from its folder, described, to its summary."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from byzdist.errors import RunError
from byzdist.problem.data import OURS, Dataset
from byzdist.problem.data import load as load_data
from byzdist.problem.evaluation import measured_of
from byzdist.problem.optimum import find_optimum
from byzdist.reporting import logs
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.progress import Progress
from byzdist.reporting.prometheus import VARIABLE as SCRAPED
from byzdist.reporting.prometheus import Prometheus
from byzdist.runtime import advice
from byzdist.runtime.best import Best
from byzdist.runtime.caller import COMMAND_LINE, Caller
from byzdist.runtime.describing import describe, write_clients
from byzdist.runtime.diagnostics import Diagnostics
from byzdist.runtime.divergence import Diverged, Guard
from byzdist.runtime.evaluating import evaluator
from byzdist.runtime.experiment import Experiment, can_measure_gap
from byzdist.runtime.identity import identity
from byzdist.runtime.logging_out import Loggers
from byzdist.runtime.recording import Recorder, Watching
from byzdist.runtime.server import Server
from byzdist.runtime.stopping import Stop, interrupt_on_signals, on_signals
from byzdist.runtime.vanishing import FolderWatch
from byzdist.storage.export import save_model
from byzdist.storage.folder import RunFolder
from byzdist.storage.saving import ServerSaver
from byzdist.transport.base import ServerEnd
from byzdist.transport.waiting import Waiting

log = logging.getLogger(__name__)


class _End(NamedTuple):
    """How a run has ended, why, and the error with which its process is to end."""

    status: str = "failed"
    reason: str = ""
    error: Diverged | None = None


def serve(
    experiment: Experiment, workers: int, run: RunFolder, transport: ServerEnd, caller: Caller = COMMAND_LINE
) -> int | None:
    """Be the parameter server, which begins or continues a run and leaves its results in its folder; return the signal that ended it.

    Nothing made here is part of a reference cycle, so all memory of the run is freed as soon as it ends.

    Raises:
        RunError: if the run fails or diverges.
    """
    config, metrics = experiment.config, _begin(experiment, workers, run)
    advice.of_run(experiment)
    measuring, saver = evaluator(experiment, _optimum(experiment)), _saver(experiment, workers, run, transport, metrics)
    diagnostics = Diagnostics(experiment, getattr(measuring, "gradient", None)) if config.metrics.diagnostics else None
    guard, stop = Guard(config, metrics), Stop(transport.stop_waiting)
    best = Best(config.stop, metrics.better[config.stop.metric]) if config.stop else None
    judges = [guard.watch] if best is None else [guard.watch, best.watch]
    shown = Progress(config, run.path, shows=caller.shows_progress, may_be_widget=caller.lives_on)
    with logs.kept_in(run.path), shown as progress:
        watch = FolderWatch(run, partial(describe, experiment, workers, run), stop, saver, config.rounds)
        loggers = Loggers(config, run.path)
        watchers = [
            progress.show,
            *_scraped(config.name, config.rounds),
            watch.look,
            loggers.show,
            *caller.watchers(stop.tell),
        ]
        evaluate = measuring.evaluate if measuring else lambda x: {}
        recorder = Recorder(config, metrics, evaluate, watchers, judges, diagnostics.complete if diagnostics else None)
        server = Server(experiment, transport, recorder, stop, saver, best, diagnostics)
        if caller.lives_on:
            interrupt_on_signals(stop.hear)
        else:
            on_signals(stop.tell)
        end = _End()
        try:
            _meet(transport, config.transport.join_timeout)
            _go_on(server, guard, run, workers)
            ended = _train(server, guard, best)
            _save_model(experiment, server, guard, best, run)  # before a link can break at the end
            transport.stop()
            end = ended
        except RunError as error:
            end = _End(reason=str(error))
            raise
        finally:
            summary = metrics.close(end.status, end.reason)
            loggers.close(summary)
            if diagnostics is not None:
                _write_conduct(experiment, run, diagnostics, transport)
        watch.finish(server.round)
        progress.finish(summary, metrics.better)
        if end.error is not None:
            raise end.error
    return stop.signal


def _begin(experiment: Experiment, workers: int, run: RunFolder) -> Metrics:
    """Describe the run in its folder; return its metrics, which go on from the checkpoint if there is one."""
    try:
        describe(experiment, workers, run)
        return Metrics(
            run.path, run.checkpoint.facts["metrics"] if run.checkpoint else None, measured_of(experiment.task)
        )
    except OSError as error:
        raise RunError(f"{str(error.filename or run.path)!r} cannot be written: {error.strerror or error}.") from None


def _write_conduct(experiment: Experiment, run: RunFolder, diagnostics: Diagnostics, transport: ServerEnd) -> None:
    """Write what each client did into clients.csv."""
    try:
        write_clients(experiment, run.path, diagnostics.columns(transport.offences()))
    except OSError as error:
        log.error("clients.csv cannot be written: %s.", error.strerror or error)


def _optimum(experiment: Experiment) -> float | None:
    """Return f(x*), found in float64 whatever the dtype of the run; None if it is not looked for."""
    config, dataset = experiment.config, experiment.dataset
    if not can_measure_gap(config, dataset, experiment.oracle.loss):
        return None
    assert isinstance(dataset, Dataset)
    if config.dtype != "float64":
        dataset = load_data(config.data.without(*OURS), dtype="float64", task=experiment.task)
        assert isinstance(dataset, Dataset)
    return find_optimum(
        config.model.without("buffers"), experiment.task, dataset, experiment.split, config.clients.honest_ids
    )


def _saver(experiment: Experiment, workers: int, run: RunFolder, transport: ServerEnd, metrics: Metrics) -> ServerSaver:
    return ServerSaver(
        run.checkpoints,
        run.name,
        experiment.config.checkpoint,
        identity(experiment) | {"workers": workers, "life": run.attempts[0]},
        transport if experiment.clients_remember else None,
        metrics.sync,
        run.checkpoint.round if run.checkpoint else -1,
    )


def _scraped(name: str, rounds: int) -> list[Watching]:
    """Return what writes the file for Prometheus, if the environment names one."""
    path = os.environ.get(SCRAPED)
    return [Prometheus(Path(path), name, rounds).show] if path else []


def _meet(transport: ServerEnd, patience: float) -> None:
    """Wait for the workers, and name those that the run begins without."""
    with Waiting(lambda: _name(transport.absent()), patience):
        transport.open()
    if absent := _name(transport.absent()):
        log.warning("%s not joined; the run begins without", f"{absent} {'have' if ',' in absent else 'has'}")


def _name(workers: Sequence[int]) -> str:
    """Return "worker 3", "workers 3, 5", or ""."""
    return f"worker{'s'[: len(workers) > 1]} {', '.join(map(str, workers))}" if workers else ""


def _go_on(server: Server, guard: Guard, run: RunFolder, workers: int) -> None:
    """Continue from the run's checkpoint, if there is one, and free it: it is as large as the server's own state."""
    if run.checkpoint is not None:
        log.info("going on after round %d", run.checkpoint.round)
        server.resume(run.checkpoint, run.checkpoint.facts["workers"] == workers)
        guard.resume(server.round, server.x)
        run.checkpoint = None


def _save_model(experiment: Experiment, server: Server, guard: Guard, best: Best | None, run: RunFolder) -> None:
    """Write the model of the run: the best one if `stop` asks for it, else the last one or the last good one."""
    model = experiment.oracle.loss.model
    if best is not None and best.x is not None:
        save_model(model, best.x, run.path, best.round)
    else:
        guard.save(model, server.x, run.path, server.round)


def _train(server: Server, guard: Guard, best: Best | None) -> _End:
    try:
        status, reason = guard.verdict(server.run(), server.round)
        if status == "finished" and best is not None:
            reason = best.reason
        return _End(status, reason)
    except Diverged as error:
        guard.is_good = False
        return _End("diverged", str(error), error)
