"""Runs an experiment with real processes and measures it from outside: seconds a round, and each process's memory at its peak."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
_LOOK = 0.2  # seconds between two looks at the processes


@dataclass
class Measured:
    """One run.

    Attributes:
        seconds: a round's, in the median over rounds; without evaluations and the first round.
        stages: likewise, of each stage.
        server, gateways, workers: bytes of memory at the peak, shared pages counted in parts (PSS).
    """

    seconds: float
    stages: dict[str, float]
    server: int = 0
    gateways: list[int] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)


def run(config: Mapping[str, Any], folder: Path, workers: int) -> Measured:
    """Run a configuration to its end.

    Raises:
        SystemExit: if the run fails.
    """
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    command = [sys.executable, "-m", "byzdist", "run", str(folder / "config.yaml")]
    process = subprocess.Popen(
        [*command, "--workers", str(workers), "--out", str(folder / "run")], stdout=subprocess.DEVNULL, cwd=ROOT
    )
    peaks: dict[tuple[str, int], int] = {}
    while process.poll() is None:
        for key, size in memory(process.pid).items():
            peaks[key] = max(size, peaks.get(key, 0))
        time.sleep(_LOOK)
    if process.returncode:
        raise SystemExit(f"the run failed: {config}")
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()[1:]]
    sampled = [line["seconds"] for line in lines if line["kind"] == "sampled"] or [line["seconds"] for line in lines]
    stages = {
        name: statistics.median(seconds[name] for seconds in sampled) for name in ("request", "wait", "aggregate")
    }
    seconds = statistics.median(seconds["total"] - seconds.get("evaluate", 0.0) for seconds in sampled)
    of = {role: [size for (r, _), size in peaks.items() if r == role] for role in ("server", "gateway", "worker")}
    return Measured(seconds, stages, max(of["server"]), of["gateway"], of["worker"])


def memory(launcher: int) -> dict[tuple[str, int], int]:
    """Return the PSS in bytes of each process below the launcher, by its role and process id."""
    found: dict[tuple[str, int], int] = {}
    with suppress(psutil.Error):
        for process in psutil.Process(launcher).children(recursive=True):
            with suppress(psutil.Error, OSError):
                rank = process.environ().get("RANK")
                if rank is not None:
                    role = "worker" if rank != "0" else "server" if _is_rank(process) else "gateway"
                    found[role, process.pid] = process.memory_full_info().pss
    return found


def _is_rank(process: psutil.Process) -> bool:
    """Whether a process with RANK 0 is the server itself, which the launcher started, and no gateway of the server's."""
    parent = process.parent()
    return parent is not None and parent.environ().get("RANK") is None


if os.environ.get("RANK"):
    raise SystemExit("not under torchrun")
