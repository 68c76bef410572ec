"""Seconds a round and memory of each process as the number of clients grows, with the same cohort on the same four workers.

usage: python tests/benchmarks/clients.py [--rounds N] [--runs N] [--transport star|collective]

Cohorts of 4; full rounds ask 20 clients; each client has 5 samples of its own and, with momentum, a memory of its own.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.measure import Measured, run

CLIENTS = (20, 100, 1_000, 10_000)


def config(clients: int, rounds: int, transport: str) -> dict[str, Any]:
    """Return the run's configuration; the data set is the same whatever the number of clients, and so is the work of a round."""
    return {
        "name": f"clients-{clients}",
        "rounds": rounds,
        "clients": {"count": clients, "byzantine": clients // 10},
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
        "aggregation": {"rule": "coordinate_median", "pre": [{"name": "bucketing", "size": 2}]},
        "attack": {"name": "bit_flip"},
        "transport": {"name": transport},
        "evaluate": {"every": rounds},
        "dtype": "float64",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--transport", default="star")
    arguments = parser.parse_args()
    seen: dict[int, list[Measured]] = {clients: [] for clients in CLIENTS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.runs):
            for clients in CLIENTS:
                tree = config(clients, arguments.rounds, arguments.transport)
                seen[clients].append(run(tree, Path(folder) / f"{clients}-{number}", workers=4))
    print(
        f"{arguments.transport}, 4 workers, cohort 4, medians of {arguments.runs} runs in turn; memory at its peak, MB (PSS)"
    )
    print(f"{'clients':>8} {'ms a round':>11} {'ratio':>6} {'server':>8} {'gateways':>9} {'workers':>8}")
    for clients, runs in seen.items():
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(runs, seen[CLIENTS[0]], strict=True))
        last = runs[-1]
        print(
            f"{clients:>8} {1e3 * statistics.median(r.seconds for r in runs):>11.2f} {ratio:>6.2f} {last.server / 1e6:>8.0f} "
            f"{sum(last.gateways) / 1e6:>9.0f} {max(last.workers) / 1e6:>8.0f}"
        )


if __name__ == "__main__":
    main()
