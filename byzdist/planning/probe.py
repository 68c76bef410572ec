"""Short runs in this process: the true server and clients over the transport `local`, without a run's folder."""

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch

from byzdist.attacks import ATTACKS
from byzdist.config.schema import Checkpoints, Config, MetricsOut, Transport
from byzdist.errors import RunError
from byzdist.host.accelerators import choose_device
from byzdist.registry import Spec
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.record import RoundRecord
from byzdist.runtime.alone import connect_workers
from byzdist.runtime.evaluating import evaluator
from byzdist.runtime.experiment import prepare
from byzdist.runtime.recording import Recorder
from byzdist.runtime.server import Server
from byzdist.runtime.stopping import Stop
from byzdist.transport.local import LocalServer

_ENOUGH = 4  # sampled rounds before a probe may end
_WARM = 2  # the first rounds of a kind, which also fill caches, do not count if there are enough others


@dataclass
class Probed:
    """What a short run showed.

    Attributes:
        rounds: how many rounds took place, without round 0.
        losses: f, or the loss on the server's own set, at each evaluation; infinite if it is not finite.
        seconds: the mean of a round, by "sampled" and "full"; a kind that did not come is missing.
        evaluation: the seconds of an evaluation.
        method_bytes: the method's memory in the server.
        clipped: in which share of the sampled rounds of its second half at least nine tenths of the replies were clipped.
        failure: why the run ended early; None if it did not.
    """

    rounds: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: Mapping[str, float] = field(default_factory=dict)
    evaluation: float = 0.0
    method_bytes: int = 0
    clipped: float = 0.0
    failure: str | None = None


def in_this_process(config: Config) -> Config:
    """Return a configuration as it runs here: on the transport `local`, without faults, loggers and checkpoints.

    Faults of a worker's process or its wire cannot be imitated in one process; clients with such an attack are honest here.
    """
    entries = [Spec("none") if _is_fault(spec) else spec for spec in config.attacks]
    attack = config.attack if entries == config.attacks else [ATTACKS.check(spec, "attack") for spec in entries]
    transport = config.transport.model_dump() | {"name": "local"}
    data = config.data
    if "workers" in data.parameters:  # processes that read ahead
        data = data.plus(workers=0)
    return config.model_copy(
        update={
            "attack": attack,
            "data": data,
            "transport": Transport(**transport),
            "metrics": MetricsOut(),
            "checkpoint": Checkpoints(every="none", minutes="none"),
        }
    )


def _is_fault(spec: Spec) -> bool:
    attack = ATTACKS.get(spec.name)
    return hasattr(attack, "on_process") or hasattr(attack, "on_wire")


def probe(
    config: Config, *, patience: float = math.inf, each: Callable[[RoundRecord], object] = lambda record: None
) -> Probed:
    """Run a configuration made by `in_this_process`; apart from the seconds, the result depends on it alone.

    Args:
        config: what to run; nothing is written but metrics, for as long as it runs.
        patience: seconds after which the run ends, once some sampled rounds are over.
        each: called with the record of each round.
    """
    torch.set_num_threads(config.threads)
    device, found = choose_device(config.device, 0), Probed()
    experiment = prepare(config, device)
    transport = LocalServer(experiment.shape(workers=1), config.transport.offences)
    connect_workers(transport, config, device, 1, None)
    stop = Stop(transport.stop_waiting)
    taken: dict[str, list[float]] = {"sampled": [], "full": []}
    evaluations: list[float] = []
    choked: list[bool] = []
    began = time.monotonic()

    def watch(record: RoundRecord, metrics: Metrics) -> None:
        each(record)
        found.rounds = record.round
        measured = record.seconds.get("evaluate", 0.0)
        taken["full" if record.full else "sampled"].append(record.seconds["total"] - measured)
        if not record.full and 2 * record.round > config.rounds:
            choked.append(record.clipped > 0 and 10 * record.clipped >= 9 * record.replies)
        if record.evaluation:
            evaluations.append(measured)
            loss = record.evaluation["loss"]
            found.losses.append(loss if math.isfinite(loss) else math.inf)
        if len(taken["sampled"]) >= _ENOUGH and time.monotonic() - began > patience:
            stop.tell()

    with tempfile.TemporaryDirectory(prefix="byzdist-plan-") as folder:
        metrics = Metrics(Path(folder))
        measuring = evaluator(experiment)
        assert measuring is not None, "private data without a validation set are not probed"
        recorder = Recorder(config, metrics, measuring.evaluate, [watch])
        server = Server(experiment, transport, recorder, stop)
        try:
            server.run()
        except RunError as error:
            found.failure = str(error)
        finally:
            metrics.close("probed")
    found.seconds = {
        kind: fmean(times[_WARM if len(times) > _ENOUGH else 0 :]) for kind, times in taken.items() if times
    }
    found.evaluation = fmean(evaluations) if evaluations else 0.0
    found.clipped = sum(choked) / max(1, len(choked))
    found.method_bytes = sum(tensor.nbytes for tensor in experiment.method.state.values())
    return found
