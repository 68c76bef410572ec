"""Seconds a round of byzdist, on either transport, against a bare torch.distributed script (bare.py), run in turn.

usage: python tests/benchmarks/rounds.py --data FOLDER [--runs N]     (FOLDER holds a9a.gz and mnist/)

20 clients on 4 workers, 4 sampled a round, no attack, no compression; both compute the same gradients of the same batches.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 4
CASES = {
    "a9a logistic regression": ("configs/paper/fig1_clip_1.yaml", "a9a.gz", 2000),
    "MNIST cnn": ("configs/paper/mnist_cnn_clip.yaml", "mnist", 60),
}


def seconds_of_bare(config: list[str]) -> float:
    """Return the bare script's seconds a round."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(1 + WORKERS)]
    output = subprocess.run(
        [*command, str(ROOT / "tests/benchmarks/bare.py"), *config],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    ).stdout
    return float(output.split()[-1])


def seconds_of_byzdist(config: list[str]) -> float:
    """Return byzdist's seconds a round, from the end of round 0 to the end of the last, without evaluations."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "byzdist", "run", *config, "--workers", str(WORKERS), "--out", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        lines = [json.loads(line)["seconds"] for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        return statistics.fmean(line["total"] - line.get("evaluate", 0.0) for line in lines[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(
        f"medians of {arguments.runs} runs in turn, milliseconds a round; ratios to the bare script, median of the pairs"
    )
    for title, (config, path, rounds) in CASES.items():
        words = [config, f"data.path={arguments.data / path}", f"rounds={rounds}", "attack.name=none"]
        words += [f"evaluate.every={rounds}", "compression.name=identity"]
        rows = [
            (
                seconds_of_bare(words),
                seconds_of_byzdist([*words, "transport.name=collective"]),
                seconds_of_byzdist([*words, "transport.name=star"]),
            )
            for _ in range(arguments.runs)
        ]
        bare, *ours = zip(*rows, strict=True)
        print(f"{title}, {rounds} rounds")
        print(f"  bare script   {1e3 * statistics.median(bare):8.2f}")
        for name, column in zip(("collective", "star"), ours, strict=True):
            ratio = statistics.median(a / b for a, b in zip(column, bare, strict=True))
            median = statistics.median(column)
            print(f"  {name:12}  {1e3 * median:8.2f}  ratio {ratio:.2f}  {1 / median:.0f} rounds/s")


if __name__ == "__main__":
    main()
