"""Seconds a round and memory of each process as the number of clients grows, the cohort and the workers the same.

usage: python -m tests.benchmarks.clients [--rounds N] [--runs N] [--transport star|collective] [--clients N ...]

Cohorts of 4; full rounds ask 20 clients, about one round in fifty. The 50,000 samples are dealt out to the clients,
and a batch has 5 of them. The seconds are the median of the sampled rounds: in full rounds a client computes with all
its samples, of which it has the fewer the more clients there are. The memory is looked at once the measured rounds
are over.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import Measured, run


def config(clients: int, transport: str) -> dict[str, Any]:
    """Return the run's configuration; the data set is the same whatever the number of clients, and so is the work of a round."""
    return {
        "name": f"clients-{clients}",
        "clients": {"count": clients, "byzantine": 1},
        "data": {"name": "synthetic", "samples": 50_000, "features": 123, "split": "iid"},
        "model": {"name": "logistic_regression", "l2": 0.01},
        "method": {
            "name": "byz_vr_marina_pp",
            "step_size": 0.1,
            "p": 0.02,
            "batch_size": 5,
            "cohort": 4,
            "full_cohort": 20,
            "clip": 1.0,
        },
        "aggregation": {
            "rule": "coordinate_median",
            "pre": [{"name": "bucketing", "size": 2}],
        },
        "attack": {"name": "bit_flip"},
        "transport": {"name": transport},
        "dtype": "float64",
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--transport", default="star", choices=["star", "collective"])
    parser.add_argument("--clients", type=int, nargs="+", default=[20, 100, 1_000, 10_000])
    arguments = parser.parse_args()
    seen: dict[int, list[Measured]] = {clients: [] for clients in arguments.clients}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.runs):
            for clients, runs in seen.items():
                tree = config(clients, arguments.transport)
                runs.append(run(tree, Path(folder, f"{clients}-{number}"), 4, arguments.rounds))
    print(f"{arguments.transport}, {arguments.rounds} rounds, medians of {arguments.runs} runs in turn")
    print(f"{'clients':>18} {'ms a sampled round':>20} {'ratio, median of pairs':>24}")
    first = seen[arguments.clients[0]]
    for clients, runs in seen.items():
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(runs, first, strict=True))
        print(f"{clients:>18,} {1e3 * statistics.median(one.seconds for one in runs):>20.2f} {ratio:>24.2f}")
    print("\nMB of memory: shared pages counted in parts (PSS), and the peak with shared pages counted in full (VmHWM)")
    print(f"{'clients':>18} " + " ".join(f"{clients:>15,}" for clients in seen))
    for name in first[0].pss:
        cells = (
            "{:>7.1f} {:>7.1f}".format(
                *(statistics.median(size[name] / 1e6 for size in sizes) for sizes in zip(*both, strict=True))
            )
            for both in ([(one.pss, one.peak) for one in runs] for runs in seen.values())
        )
        print(f"{name:>18} " + " ".join(cells))


if __name__ == "__main__":
    main()
