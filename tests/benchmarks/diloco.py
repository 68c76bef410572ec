"""Robust DiLoCo while workers die, as the second table of docs/local-steps.md.

``python -m tests.benchmarks.diloco OUT [--curve NAME]`` runs a curve of configs/studies/diloco.yaml, by default "flip 1", on the
star, with a worker process a client. After a third of the rounds it kills the workers of two honest clients, and again whenever
they are started anew. It prints the final losses and the rounds without these two in Markdown, and the bytes a trained token
beside those of data-parallel training, in which a replica sends and gets d values of 4 bytes in every step. A run takes about a
minute on a core; OUT keeps finished runs.
"""

import argparse
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.support.harness import byzdist

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
KILLED = ("byzdist-w2", "byzdist-w3")  # the workers of clients 1 and 2; the last clients are Byzantine
AFTER = 10  # rounds


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--curve", default="flip 1", help='of the study (default: "flip 1")')
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    study = yaml.safe_load((CONFIGS / "studies" / "diloco.yaml").read_text())
    settings = {**study["set"], **study["curves"][arguments.curve], "transport": "star"}
    rules, clips = study["grid"]["aggregation.rule"], study["grid"]["method.clip"]
    print(
        f"| rule | {' | '.join(f'clip: {clip}' for clip in clips)} | rounds without the two |\n|{' --- |' * (len(clips) + 2)}"
    )
    lines: list[dict[str, Any]] = []
    for rule in rules:
        losses, without = [], []
        for clip in clips:
            folder = out / f"{rule}-{clip}"
            if not (folder / "summary.json").exists():
                run(folder, {**settings, "aggregation.rule": rule, "method.clip": clip})
            summary = json.loads((folder / "summary.json").read_text())
            losses.append(f"{summary['loss']:.4g}" if summary["status"] == "finished" else summary["status"])
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            without.append(str(sum(_lacks_the_two(line) for line in lines)))
        print(f"| {rule} | {' | '.join(losses)} | {', '.join(without)} |", flush=True)
    tell_bytes(out / f"{rules[-1]}-{clips[-1]}", lines[AFTER - 1])


def _lacks_the_two(line: dict[str, Any]) -> bool:
    """Return whether neither client 1 nor client 2 replied in a round."""
    return not {1, 2}.intersection(line["cohort"]).difference(map(int, line["missing"]))


def run(folder: Path, settings: dict[str, Any]) -> None:
    """Train, and kill two workers on the way."""
    words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    config = CONFIGS / "examples" / "diloco.yaml"
    with byzdist("run", config, "--workers", "8", "--out", folder, *words) as job:
        metrics = folder / "metrics.jsonl"
        while not metrics.exists() or len(metrics.read_text().splitlines()) <= AFTER:
            assert job.process.poll() is None, job.output
            time.sleep(0.1)
        while job.process.poll() is None:  # whoever watches over a worker starts it again
            for process in job.processes():
                with suppress(psutil.Error):
                    if process.name() in KILLED:
                        process.kill()
            time.sleep(1)


def tell_bytes(folder: Path, line: dict[str, Any]) -> None:
    """Print the bytes a trained token in a round in which all clients replied."""
    described = json.loads((folder / "run.json").read_text())
    method, d, clients = described["method"], described["parameters"], len(line["cohort"])
    tokens = method["batch_size"] * described["problem"]["features"][0]  # of a step
    ours = (line["bytes_up"] + line["bytes_down"]) / (clients * method["steps"] * tokens)
    print(f"\nd = {d}: {ours:.3g} bytes a trained token; data-parallel training 2·4·d/{tokens} = {8 * d / tokens:.3g}")


if __name__ == "__main__":
    main()
