"""A whole run in one process, for tests: the true server and workers over the transport `local`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from byzdist.config.reading import parse
from byzdist.problem.evaluation import Evaluator
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.record import RoundRecord
from byzdist.rounds import Payloads, Replies
from byzdist.runtime.alone import connect_workers
from byzdist.runtime.experiment import Experiment, prepare
from byzdist.runtime.identity import claim
from byzdist.runtime.recording import Recorder
from byzdist.runtime.server import Server
from byzdist.runtime.serving import serve
from byzdist.runtime.stopping import Stop
from byzdist.transport.local import LocalServer

CPU = torch.device("cpu")
NEVER = 10**9  # offences that would lead to quarantine: tests of that are elsewhere


def without(replies: Replies, lost: dict[int, str]) -> Replies:
    """Return replies of which those of some clients are missing, with a reason for each client."""
    kept = [row for row, client in enumerate(replies.payloads) if client not in lost]
    payloads = Payloads([client for client in replies.payloads if client not in lost], replies.payloads.rows[kept])
    missing = {client: reason for client, reason in lost.items() if client in replies.payloads}
    return replace(replies, payloads=payloads, missing=replies.missing | missing)


@dataclass(frozen=True)
class Trained:
    """What a run leaves."""

    status: str
    x: Tensor
    g: Tensor
    metrics: list[dict[str, Any]]
    experiment: Experiment


def train(
    tree: dict[str, Any],
    folder: Path,
    workers: int = 2,
    tamper: Callable[[Server, int], object] | None = None,
    end: type[LocalServer] = LocalServer,
) -> Trained:
    """Run a configuration to its end, and leave its metrics alone in the folder.

    Args:
        tamper: is called with the server and the round after each round.
        end: the class of the server's end, for tests that interfere there.
    """
    config = parse(tree)
    experiment = prepare(config, CPU)
    transport = end(experiment.shape(workers), NEVER)
    connect_workers(transport, config, CPU, workers, run=None)
    evaluator = Evaluator(experiment.oracle.loss, experiment.shared_data, experiment.dataset, config.clients.honest_ids)
    lines: list[dict[str, Any]] = []

    def show(record: RoundRecord, metrics: Metrics) -> None:
        lines.append(record.line())
        if tamper:
            tamper(server, record.round)

    metrics = Metrics(folder)
    recorder = Recorder(config, metrics, evaluator.evaluate, [show])
    server = Server(experiment, transport, recorder, Stop(transport.stop_waiting))
    status = server.run()
    metrics.close(status)
    return Trained(status, server.x.clone(), server.estimate.g.clone(), lines, experiment)


def train_in(
    tree: dict[str, Any], folder: Path, workers: int = 2, resume: bool = False, end: type[LocalServer] = LocalServer
) -> Tensor:
    """Run a configuration with all that a real run leaves in its folder, from the start or from its last checkpoint.

    Args:
        end: the class of the server's end, for tests that interfere there.

    Returns:
        The final model.
    """
    config = parse(tree)
    experiment = prepare(config, CPU)
    transport = end(experiment.shape(workers), config.transport.offences)
    run = claim(folder, experiment, resume)
    try:
        connect_workers(transport, config, CPU, workers, run)
        serve(experiment, workers, run, transport)
    finally:
        run.lock.release()
    return transport.frame.current.clone()
