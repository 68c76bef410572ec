"""Seconds a round of byzdist, on either transport, against a bare torch.distributed script (bare.py), run in turn.

usage: python -m tests.benchmarks.rounds --data FOLDER [--runs N] [--shorter N]     (FOLDER holds a9a.gz and mnist/)

20 clients on 4 workers, 4 sampled a round, no attack, no compression; both compute the same gradients of the same
batches. On both sides the seconds are the mean over the rounds after round 0, full ones included, from the end of one
round to the end of the next; byzdist's without its two evaluations.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.measure import ROOT, bare

WORKERS = 4
CASES = {
    "a9a logistic regression": ("configs/paper/fig1_clip_1.yaml", "a9a.gz", 2000),
    "MNIST cnn": ("configs/paper/mnist_cnn_clip.yaml", "mnist", 300),
}


def seconds_of_byzdist(words: list[str]) -> float:
    """Return byzdist's seconds a round."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "byzdist", "run", *words, "--workers", str(WORKERS), "--out", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        lines = [json.loads(line)["seconds"] for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        return statistics.fmean(line["total"] - line.get("evaluate", 0.0) for line in lines[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shorter", type=int, default=1, help="divides the numbers of rounds")
    arguments = parser.parse_args()
    print(
        f"medians of {arguments.runs} runs in turn, milliseconds a round; ratios to the bare script, median of the pairs"
    )
    for title, (config, path, rounds) in CASES.items():
        rounds //= arguments.shorter
        words = [config, f"data.path={arguments.data.resolve() / path}", f"rounds={rounds}", "attack=none"]
        words += [f"evaluate.every={rounds}", "compression.name=identity"]
        rows = [
            (
                bare(words, WORKERS, first=1)[0],
                seconds_of_byzdist([*words, "transport.name=collective"]),
                seconds_of_byzdist([*words, "transport.name=star"]),
            )
            for _ in range(arguments.runs)
        ]
        bares, *ours = zip(*rows, strict=True)
        print(f"{title}, {rounds} rounds")
        print(f"  bare script   {1e3 * statistics.median(bares):8.2f}")
        for name, column in zip(("collective", "star"), ours, strict=True):
            ratio = statistics.median(a / b for a, b in zip(column, bares, strict=True))
            median = statistics.median(column)
            print(f"  {name:12}  {1e3 * median:8.2f}  ratio {ratio:.2f}  {1 / median:.0f} rounds/s", flush=True)


if __name__ == "__main__":
    main()
