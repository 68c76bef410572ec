"""What a round costs as the model grows: seconds by stage, against bare.py in turn, and memory at its peak.

usage: python -m tests.benchmarks.models [--runs N] [--shorter N] [--transport star|collective] [--sizes N ...]

A perceptron of d float32 parameters, 20 clients on 4 workers, cohorts of 4, batches of 8. The seconds are means over
rounds, after some to warm up; of those of a round

* gradient is what its slowest worker computes, measured in the bare script: the same code on the same batches and as
  many cores;
* wire is the rest of the time until all replies are there, checksums and checks included;
* aggregation is what the server does then: clip, bucketing, median, update of the estimate.

The bare script's sum is its gradient, its wire and its mean. The peaks (VmHWM) are shown as they are, and as
multiples of the model after those of the same process with a model of 1,000 parameters, its idle size, are taken off:
while training, and at the end of the run, when a checkpoint and the model are written.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import WARM, Measured, bare, run

COHORT, WORKERS = 4, 4
SHAPES = {  # d: features, hidden units, rounds to measure
    1_000: (122, 8, 20),
    100_000: (313, 316, 500),
    1_000_000: (997, 1_000, 200),
    11_000_000: (3_313, 3_317, 40),
    100_000_000: (9_997, 10_000, 5),
}
IDLE, *SIZES = SHAPES


def config(size: int, transport: str) -> dict[str, Any]:
    """Return an experiment with about so many parameters."""
    features, hidden, _ = SHAPES[size]
    return {
        "name": f"models-{size}",
        "clients": {"count": 20},
        "data": {"name": "synthetic", "samples": 100, "features": features},
        "model": {"name": "mlp", "hidden": [hidden]},
        "method": {
            "name": "byz_vr_marina_pp",
            "step_size": 0.001,
            "p": 0.01,
            "full_batch": 8,
            "batch_size": 8,
            "cohort": COHORT,
            "full_cohort": COHORT,
            "clip": 1.0,
        },
        "aggregation": {"rule": "coordinate_median", "pre": [{"name": "bucketing", "size": 2}]},
        "transport": {"name": transport, "deadline": 120, "join_timeout": 300},
        "checkpoint": {"minutes": "none"},
    }


def pair(size: int, transport: str, rounds: int) -> tuple[Measured, float, float]:
    """Measure byzdist, then the bare script: its seconds a round, and those of its gradients."""
    with tempfile.TemporaryDirectory() as folder:
        ours = run(config(size, transport), Path(folder, "ours"), WORKERS, rounds)
        last = WARM + rounds - 1
        return ours, *bare([f"{folder}/ours/config.yaml", f"rounds={last}"], WORKERS, first=WARM)


def worst(peaks: dict[str, int], role: str) -> int:
    """Return the largest peak among the processes of a role."""
    return max(peak for name, peak in peaks.items() if name.split()[0] == role)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shorter", type=int, default=1, help="divides the numbers of rounds")
    parser.add_argument("--transport", default="star", choices=["star", "collective"])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, choices=SIZES)
    arguments = parser.parse_args()
    transport = arguments.transport
    with tempfile.TemporaryDirectory() as folder:
        idle = run(config(IDLE, transport), Path(folder, "idle"), WORKERS, SHAPES[IDLE][2])
    print(f"{transport}, medians of {arguments.runs} pairs of runs in turn, milliseconds a round")
    titles = ("gradient", "wire", "aggregation", "total", "bare sum", "ratio")
    print(f"{'d':>12} {'rounds':>7} " + " ".join(f"{title:>11}" for title in titles))
    measured: dict[int, Measured] = {}
    for size in arguments.sizes:
        rounds = max(2, SHAPES[size][2] // arguments.shorter)
        rows = []
        for _ in range(arguments.runs):
            measured[size], bare_total, gradient = pair(size, transport, rounds)
            means = measured[size].means
            wire = means["request"] + means["wait"] - gradient
            rows.append((gradient, wire, means["aggregate"], means["total"], bare_total, means["total"] / bare_total))
        *times, ratio = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"{size:>12,} {rounds:>7} " + " ".join(f"{1e3 * value:>11.2f}" for value in times) + f" {ratio:>11.2f}",
            flush=True,
        )
    print("\npeak MB: idle, training, end of the run; and the latter two less the first, in multiples of the unit")
    print(f"{'d':>12} {'process':>9} {'unit':>17} {'idle':>9} {'training':>9} {'end':>9} {'training':>9} {'end':>9}")
    for size, found in measured.items():
        for role, unit, vectors in (
            ("server", "d x (C + 4) x 4 B", COHORT + 4),
            ("worker", "d x 4 B", 1),
            ("launcher", "d x 4 B", 1),
        ):
            base, *peaks = (worst(one, role) for one in (idle.peak, found.peak, found.last_peak))
            cells = " ".join(f"{peak / 1e6:>9.1f}" for peak in (base, *peaks))
            multiples = " ".join(f"{(peak - base) / (4 * size * vectors):>9.2f}" for peak in peaks)
            print(f"{size:>12,} {role:>9} {unit:>17} {cells} {multiples}")


if __name__ == "__main__":
    main()
