"""Measures real processes from outside: byzdist's seconds a round and memory, and the bare script's seconds."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
_ENDLESS = 10**6  # rounds
WARM = 21  # rounds, in which buffers are made and the server watches for vectors that are too sparse


@dataclass
class Measured:
    """One run.

    Attributes:
        seconds: a sampled round's, in the median.
        means: of all measured rounds, full ones included: the seconds in total, of request, wait and aggregate.
        pss: bytes of each process by its name after the measured rounds, pages that several share counted in parts.
        peak: the most bytes that each process had in use then (VmHWM), pages that several share counted in each.
        last_peak: the same at the end of the run, after it has written a checkpoint and its model.
    """

    seconds: float
    means: dict[str, float]
    pss: dict[str, int]
    peak: dict[str, int]
    last_peak: dict[str, int]


def run(config: Mapping[str, Any], folder: Path, workers: int, rounds: int) -> Measured:
    """Measure so many rounds of a configuration, after `WARM` and without evaluations; then look at the memory.

    Raises:
        SystemExit: if the run fails.
    """
    folder.mkdir(parents=True)
    path, metrics = folder / "config.yaml", folder / "run" / "metrics.jsonl"
    path.write_text(yaml.safe_dump({**config, "rounds": _ENDLESS, "evaluate": {"every": _ENDLESS}}))
    command = [sys.executable, "-m", "byzdist", "run", str(path), "--workers", str(workers), "--out", f"{folder}/run"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    while _lines(metrics) < WARM + rounds:
        if process.poll() is not None:
            raise SystemExit(f"the run failed: {config}")
        time.sleep(1)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()[WARM : WARM + rounds]]
    living = processes(process.pid)
    pss = {name: one.memory_full_info().pss for name, one in living.items()}
    peak = {name: peak_of(one.pid) for name, one in living.items()}
    last_peak = peak.copy()
    living["server"].terminate()
    while process.poll() is None:
        for name, one in living.items():
            with suppress(psutil.Error, OSError, StopIteration):
                last_peak[name] = max(last_peak[name], peak_of(one.pid))
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"the run failed at its end: {config}")
    seconds = statistics.median(line["seconds"]["total"] for line in lines if line["kind"] == "sampled")
    names = ("total", "request", "wait", "aggregate")
    means = {name: statistics.fmean(line["seconds"][name] for line in lines) for name in names}
    return Measured(seconds, means, pss, peak, last_peak)


def _lines(metrics: Path) -> int:
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def processes(launcher: int) -> dict[str, psutil.Process]:
    """Return a run's processes by name: launcher, server, store, keeper, and by rank gateway, supervisor and worker."""
    found = {"launcher": psutil.Process(launcher)}
    for process in found["launcher"].children(recursive=True):
        name = process.name().removeprefix("byzdist-")
        if name[0] in "gw" and name[1:].isdecimal():
            name = {"g": "gateway ", "w": "worker "}[name[0]] + name[1:]
        elif name not in ("server", "store", "keeper"):
            (worker,) = process.children()
            name = f"supervisor {worker.name().removeprefix('byzdist-w')}"
        found[name] = process
    order = ["launcher", "server", "store", "keeper", "gateway", "supervisor", "worker"]
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0].split()[0]), item[0])))


def peak_of(pid: int) -> int:
    """Return the most bytes that a process ever had in use (Linux)."""
    with open(f"/proc/{pid}/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def bare(words: Sequence[str], workers: int, first: int) -> tuple[float, float]:
    """Run the bare script; return its mean seconds a round from the first that counts on, and its gradients'."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(1 + workers)]
    output = subprocess.run(
        [*command, str(ROOT / "tests/benchmarks/bare.py"), *words],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    ).stdout
    seconds, gradients = (statistics.fmean(column[first:]) for column in json.loads(output.splitlines()[-1]))
    return seconds, gradients
