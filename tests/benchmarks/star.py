"""The star's seconds a round: against collective with 20 workers, and by the number of workers.

usage: python -m tests.benchmarks.star --data FOLDER [--runs N] [--workers 8 16 32 64]     (FOLDER holds a9a.gz and
mnist/)

First 4 of 20 clients a round, each on a worker process of its own, both transports in turn. Then the transport alone:
cohorts of 4 out of 8 to 64 worker processes that answer at once.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.measure import ROOT
from tests.support.star import TERMS, Star, shape_of

PATIENT = replace(TERMS, deadline=60.0, join_timeout=300.0)  # the machine may be busy
CASES = {
    "a9a logistic regression": ("configs/paper/fig1_clip_1.yaml", "a9a.gz", 1000),
    "MNIST cnn": ("configs/paper/mnist_cnn_clip.yaml", "mnist", 60),
}


def run(words: list[str], workers: int) -> float:
    """Return the median seconds of a sampled round."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "byzdist", "run", *words, "--workers", str(workers), "--out", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    return statistics.median(
        line["seconds"]["total"] - line["seconds"].get("evaluate", 0.0) for line in lines if line["kind"] == "sampled"
    )


def against_collective(data: Path, runs: int) -> None:
    """Print the first table."""
    print(f"milliseconds of a sampled round, 4 of 20 clients on 20 workers, medians of {runs} runs in turn")
    print(f"{'':24} {'collective':>12} {'star':>12} {'ratio, median of pairs':>24}")
    for title, (config, path, rounds) in CASES.items():
        words = [config, f"data.path={data / path}", f"rounds={rounds}", f"evaluate.every={rounds}", "attack=none"]
        pairs = [
            (run([*words, "transport.name=collective"], 20), run([*words, "transport.name=star"], 20))
            for _ in range(runs)
        ]
        collective, star = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{title:24} {collective:12.2f} {star:12.2f} {ratio:24.2f}", flush=True)


def transport_alone(workers: int, cohort: int, rounds: int, dimension: int) -> list[float]:
    """Return the seconds of each sampled round with worker processes that answer at once."""
    star = Star(shape_of(workers, dimension=dimension), PATIENT, processes=True)
    rng, seconds = np.random.default_rng(0), []
    with star:
        star.server.open()
        for _ in range(rounds):
            ids = sorted(rng.choice(workers, cohort, replace=False).tolist())
            started = time.perf_counter()
            replies = star.ask(ids, deadline=60)
            seconds.append(time.perf_counter() - started)
            assert all(isinstance(reply, torch.Tensor) for reply in replies.values()), replies
    return seconds[10:]


def by_workers(counts: list[int]) -> None:
    """Print the second table."""
    print("\nmilliseconds of a round of the transport alone, 1,000 float64 values: median (90th percentile)")
    print(f"{'workers':>8} {'cohort 4':>20} {'cohort 8':>20}")
    for workers in counts:
        cells = []
        for cohort in (4, 8):
            seconds = 1e3 * np.array(transport_alone(workers, cohort, 500, 1000))
            cells.append(f"{np.median(seconds):.2f} ({np.quantile(seconds, 0.9):.2f})")
        print(f"{workers:8} {cells[0]:>20} {cells[1]:>20}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="leave it out for the second table alone")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[8, 16, 32, 64])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.data:
        against_collective(arguments.data.resolve(), arguments.runs)
    by_workers(arguments.workers)


if __name__ == "__main__":
    main()
