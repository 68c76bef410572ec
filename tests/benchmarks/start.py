"""Time from the command to the first round, against torchrun of a script that only imports torch: same process count, in turn.

usage: python tests/benchmarks/start.py [--runs N] [CONFIG [key=value ...]]
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def seconds_to_first_round(config: list[str], workers: int) -> float:
    """Start a run and watch for its first line of metrics, which is written once a round is over."""
    folder = Path(tempfile.mkdtemp())
    lines = folder / "run" / "metrics.jsonl"
    started = time.perf_counter()
    command = [sys.executable, "-m", "byzdist", "run", *config, "rounds=1", "--workers", str(workers)]
    process = subprocess.Popen([*command, "--out", str(folder / "run")], stdout=subprocess.DEVNULL, cwd=ROOT)
    while not (lines.exists() and lines.stat().st_size):
        if process.poll() not in (None, 0):
            raise SystemExit("the run failed")
        time.sleep(0.01)
    elapsed = time.perf_counter() - started
    process.wait()
    first = json.loads(lines.read_text().splitlines()[0])
    shutil.rmtree(folder)
    return elapsed - (first["seconds"]["total"] if first["round"] == 0 else 0.0)


def seconds_of_torchrun(workers: int) -> float:
    """Run a script that only imports torch, to the end."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write("import torch\n")
        script.flush()
        started = time.perf_counter()
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(1 + workers), script.name]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", nargs="*", default=["configs/quickstart.yaml"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    config = arguments.config or ["configs/quickstart.yaml"]
    seconds_to_first_round(config, arguments.workers)  # fills the caches of data and optimum
    pairs = [
        (seconds_to_first_round(config, arguments.workers), seconds_of_torchrun(arguments.workers))
        for _ in range(arguments.runs)
    ]
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"1 server + {arguments.workers} workers, {arguments.runs} runs in turn, medians")
    print(f"  byzdist, command to first round     {ours:6.2f} s")
    print(f"  torchrun, script that imports torch {bare:6.2f} s")
    print(f"  ratio (median of pairs)             {ratio:6.2f}")


if __name__ == "__main__":
    main()
