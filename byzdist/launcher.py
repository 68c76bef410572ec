"""Starts a run on this machine: checks the configuration, then becomes torchrun's agent for one server and N workers."""

import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from byzdist import logs
from byzdist.config import Config, load
from byzdist.errors import ConfigError, RunError
from byzdist.experiment import prepare
from byzdist.files import read_json
from byzdist.folder import claim
from byzdist.supervisor import AGENT
from byzdist.transport.identity import FILE_VARIABLE, VARIABLE, new_secret

_DEFAULT_WORKERS = 4


def launch(
    path: str, overrides: Sequence[str], workers: int | None, out: Path | None, resume: bool, max_restarts: int
) -> int:
    """Run the experiment with 1 + ``workers`` processes, by default as many as the run to resume had; return the exit code.

    Raises:
        ConfigError: before anything is started.
        RunError: if the run failed, with the first failure's reason.
    """
    logs.leave_advice_to_the_server()
    config = load(path, overrides)
    folder, workers = _claim(config, workers, out, resume)
    command = ["-m", "byzdist", "run", path, *overrides, "--out", str(folder), *(["--resume"] if resume else [])]
    # After a signal torchrun's agent kills what has not ended by then.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(60 + int(config.transport.deadline)))
    code = _start(command, workers, max_restarts)
    if code == 0:
        _check_end(folder)
    return code


def _claim(config: Config, workers: int | None, out: Path | None, resume: bool) -> tuple[Path, int]:
    """Return the run's folder and the number of its workers; data, model and checkpoint are the processes' to keep."""
    try:
        experiment = prepare(config, torch.device("cpu"))  # also warms the data cache for the processes to come
    except MemoryError as error:
        raise ConfigError(f"data, model: they do not fit into memory: {error}") from None
    most = config.clients.count
    if workers is not None and workers > most:
        raise ConfigError(f"--workers: {workers} processes for {most} clients; at most one a client.")
    run = claim(out, experiment, resume)
    run.lock.release()  # the server takes it
    if workers is None:
        workers = run.checkpoint.facts["workers"] if run.checkpoint else min(_DEFAULT_WORKERS, most)
    return run.path, workers


def _check_end(folder: Path) -> None:
    """Raise RunError where a run whose processes were told to end did not come to the end of a round."""
    if not (folder / "metrics.jsonl").exists():
        raise RunError("the run was interrupted before its first round.")
    summary = folder / "summary.json"
    if not summary.exists() or read_json(summary)["status"] == "failed":
        raise RunError("the run was interrupted within a round.")


def _start(command: Sequence[str], workers: int, max_restarts: int) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does for several processes
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ[AGENT] = str(os.getpid())
    if FILE_VARIABLE not in os.environ:
        os.environ.setdefault(VARIABLE, new_secret())
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we report failures ourselves
    agent = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=1 + workers,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=max_restarts,
    )
    try:
        elastic_launch(agent, sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise RunError(f"rank {rank} failed: {failure.message}") from None
    except SignalException as interruption:
        return 0 if interruption.sigval in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) else 1
    return 0


def report_failure(reason: str) -> None:
    """Leave the reason of a rank's failure where the agent that started it looks."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        Path(file).write_text(json.dumps({"message": reason, "timestamp": str(int(time.time()))}))
