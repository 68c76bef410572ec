"""Private memory of a gateway by size of the model, as the kernel counts it after some rounds (Linux).

Counted are the pages that only this process holds, but for those of mappings made to be shared: the reply rows are one
block of memory however many processes look at it, and which of its pages a process has looked at so far is no cost.

usage: python -m tests.benchmarks.gateway_memory [--workers N]
"""

import argparse
import re
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from tests.support.harness import byzdist
from tests.support.star import TERMS, Star, shape_of

PATIENT = replace(TERMS, deadline=60.0, join_timeout=300.0)  # the machine may be busy
SIZES = (123, 10_000, 1_000_000, 4_000_000)


def gateways_of(star: Star) -> list[psutil.Process]:
    """Return the gateway processes: the keeper's children."""
    return psutil.Process(star.server.gateways.keeper).children()


def private_megabytes(pid: int) -> float:
    """Return what a process holds for itself."""
    total, shared = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if mapping := re.match(r"[0-9a-f]+-[0-9a-f]+ ...(.) ", line):
            shared = mapping[1] == "s"
        elif line.startswith("Private_") and not shared:
            total += int(line.split()[1])
    return total / 1024


def measure(dimension: int, workers: int, rounds: int = 20) -> list[float]:
    """Return the private megabytes of each gateway after some rounds, every third of them full."""
    star = Star(shape_of(workers, dimension=dimension), PATIENT, processes=True)
    with star:
        star.server.open()
        for round_ in range(rounds):
            star.ask(full=round_ % 3 == 0, deadline=60)
        found = [private_megabytes(process.pid) for process in gateways_of(star)]
    return found


def in_a_run(workers: int) -> list[float]:
    """Return the same for the quickstart, whose server has much else in its memory when it forks."""
    with tempfile.TemporaryDirectory() as folder:
        words = ("configs/quickstart.yaml", "rounds=100000", "--workers", str(workers), "--out", f"{folder}/run")
        with byzdist("run", *words) as job:
            metrics = Path(folder, "run", "metrics.jsonl")
            while not metrics.exists() or len(metrics.read_text().splitlines()) < 200:
                assert job.process.poll() is None, "the run has ended"
                time.sleep(0.1)
            (keeper,) = [child for child in job.rank(0).children() if child.name() == "byzdist-keeper"]
            return [private_megabytes(process.pid) for process in keeper.children()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'d (float64)':>12} {'model MB':>10} {'gateway MB: median':>20} {'largest':>10}")
    for dimension in SIZES:
        found = measure(dimension, arguments.workers)
        print(f"{dimension:12} {8 * dimension / 2**20:10.1f} {statistics.median(found):20.2f} {max(found):10.2f}")
    found = in_a_run(arguments.workers)
    print(f"{'quickstart':>12} {'':10} {statistics.median(found):20.2f} {max(found):10.2f}")


if __name__ == "__main__":
    main()
