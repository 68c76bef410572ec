"""Time from the command to the first round, against torchrun of a script that only imports torch, both in turn.

usage: python -m tests.benchmarks.start [--runs N] [--workers N] [CONFIG [key=value ...]]

byzdist's time ends when round 0 is in metrics.jsonl, which is while round 1 is under way: round 0 itself, a full one
with an evaluation, is in it. torchrun's ends with the command; it starts as many processes, one a rank.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.measure import ROOT


def seconds_to_first_round(config: list[str], workers: int) -> float:
    """Start a run and watch for its first line of metrics."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "run", "metrics.jsonl")
        command = [sys.executable, "-m", "byzdist", "run", *config, "rounds=1", "--workers", str(workers)]
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--out", f"{folder}/run"], stdout=subprocess.DEVNULL, cwd=ROOT)
        while not (lines.exists() and lines.stat().st_size):
            if process.poll() is not None:
                raise SystemExit("the run failed")
            time.sleep(0.01)
        elapsed = time.perf_counter() - started
        if process.wait():
            raise SystemExit("the run failed after its first round")
        return elapsed


def seconds_of_torchrun(workers: int) -> float:
    """Run a script that only imports torch, to the end."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write("import torch\n")
        script.flush()
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(1 + workers), script.name]
        started = time.perf_counter()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", nargs="*", default=["configs/quickstart.yaml"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    config, workers = arguments.config, arguments.workers
    seconds_to_first_round(config, workers)  # fills the caches of data, optimum and disk
    pairs = [(seconds_to_first_round(config, workers), seconds_of_torchrun(workers)) for _ in range(arguments.runs)]
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"1 server + {workers} workers, {arguments.runs} runs in turn, medians")
    print(f"  byzdist, command to first round     {ours:6.2f} s")
    print(f"  torchrun, script that imports torch {bare:6.2f} s")
    print(f"  ratio (median of pairs)             {ratio:6.2f}")


if __name__ == "__main__":
    main()
