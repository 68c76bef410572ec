"""What checkpoints cost: seconds, bytes, and their share of the training time.

usage: python -m tests.benchmarks.checkpoint [--seconds N] [--runs N] [--sizes 1000 1000000 11000000]

Runs with a checkpoint every six seconds, ten times as often as by default, and without any take turns. The last column is the
difference of their mean seconds a round, relative, divided by ten: the share at the default setting. 20 clients on 4 workers,
4 sampled a round; momentum_sgd is a method whose clients remember a vector each, which the workers save.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from byzdist.storage.checkpoint import Checkpoint, file_name
from byzdist.storage.saving import snapshot
from tests.benchmarks.measure import ROOT

EVERY, DEFAULT = 0.1, 1.0  # minutes
SHAPES = {1_000: (122, 8), 1_000_000: (997, 1_000), 11_000_000: (3_313, 3_317)}  # features and hidden units
METHODS = {
    "byz_vr_marina_pp": {"name": "byz_vr_marina_pp", "p": 0.02, "clip": 1.0},
    "momentum_sgd": {"name": "momentum_sgd", "momentum": 0.9, "clip": 1.0},
}


def config(method: str, size: int, rounds: int, every: float | str) -> dict[str, Any]:
    """Return an experiment with about so many parameters."""
    features, hidden = SHAPES[size]
    return {
        "name": "checkpoint-cost",
        "rounds": rounds,
        "clients": {"count": 20},
        "data": {"name": "synthetic", "samples": 200, "features": features},
        "model": {"name": "mlp", "hidden": [hidden]},
        "method": {**METHODS[method], "step_size": 0.01, "batch_size": 8, "cohort": 4, "full_cohort": 4},
        "aggregation": {"rule": "geometric_median"},
        "evaluate": {"every": rounds},
        "checkpoint": {"minutes": every},
        "transport": {"deadline": 120, "join_timeout": 300},
    }


def seconds_of_a_round(method: str, size: int, rounds: int, every: float | str) -> float:
    """Run an experiment; return its mean seconds a round, without the first one and the evaluations."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config(method, size, rounds, every)))
        command = [sys.executable, "-m", "byzdist", "run", str(path), "--workers", "4", "--out", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        lines = [json.loads(line)["seconds"] for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        return statistics.fmean(line["total"] - line.get("evaluate", 0.0) for line in lines[1:])


def one_checkpoint(size: int) -> tuple[float, float, int]:
    """Return what a checkpoint of x and g costs by itself: seconds of copying, seconds of writing, bytes."""
    tensors = {key: torch.randn(size) for key in ("x", "g")}
    buffers: dict[str, torch.Tensor] = {}
    copying, writing = [], []
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(6):
            started = time.perf_counter()
            copied = snapshot(tensors, buffers)
            between = time.perf_counter()
            Checkpoint("benchmark", round_, {}, copied).write(Path(folder))
            copying.append(between - started)
            writing.append(time.perf_counter() - between)
        size = (Path(folder) / file_name(0)).stat().st_size
    return statistics.median(copying[1:]), statistics.median(writing[1:]), size


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=40.0, help="about how long each run trains")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"medians of {arguments.runs} pairs of runs, about {arguments.seconds:g} s each")
    print(f"{'method':18}{'d':>10}{'MB':>8}{'copy s':>9}{'write s':>9}{'round s':>9}{'every 6 s':>11}{'default':>9}")
    for method in arguments.methods:
        for size in arguments.sizes:
            copying, writing, length = one_checkpoint(size)
            rounds = max(20, int(arguments.seconds / seconds_of_a_round(method, size, 30, "none")))
            pairs = [
                [seconds_of_a_round(method, size, rounds, every) for every in ("none", EVERY)]
                for _ in range(arguments.runs)
            ]
            share = statistics.median(saving / plain - 1 for plain, saving in pairs)
            plain = statistics.median(pair[0] for pair in pairs)
            print(
                f"{method:18}{size:>10}{length / 1e6:>8.2f}{copying:>9.4f}{writing:>9.3f}{plain:>9.4f}"
                f"{share:>11.1%}{share * EVERY / DEFAULT:>9.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
