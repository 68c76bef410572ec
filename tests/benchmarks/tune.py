"""What `byzdist plan --tune` finds beside the settings that were tuned by hand, as the table of docs/planning.md.

usage: python -m tests.benchmarks.tune [--data FOLDER] [--cases NAME ...] [--seeds N] [--budget TIMES]

Each shipped configuration is tuned from a start that knows nothing of the settings it ships with: a tiny step size and the default clip
(p stays, because a larger one costs more gradients a round), in short runs of TIMES the rounds of the run together, by default 3. Then
both run to the end with other seeds than the one it was tuned with.
FOLDER holds a9a.gz and mnist/, which are not part of this package (by default BYZDIST_DATA or ../shared/data).
"""

import argparse
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from byzdist.config.reading import load
from byzdist.planning.tuning import tune
from tests.benchmarks.robustness import ROOT, Setting, outcome

START = ["method.step_size=1.0e-6", "method.clip=1.0"]


@dataclass(frozen=True)
class Case:
    """A shipped configuration, perhaps shortened, and what is compared at its end: the lower, or for accuracy the higher, the better."""

    path: str
    measure: str
    data: str = ""
    changes: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=lambda: START)


CASES = {
    "quickstart": Case("configs/quickstart.yaml", "gap"),
    "fig1_clip_1": Case("configs/paper/fig1_clip_1.yaml", "gap", "a9a.gz"),
    "fig1_sound": Case("configs/paper/fig1_sound.yaml", "gap", "a9a.gz"),
    "mnist_cnn_clip": Case("configs/paper/mnist_cnn_clip.yaml", "accuracy", "mnist", ["rounds=100"]),
    "language_model": Case(
        "configs/examples/language_model.yaml",
        "loss",
        changes=["rounds=150"],
        start=["method.step_size={name: cosine, value: 1.0e-6, last: 1.0e-7, rounds: 400}", "method.clip=1.0"],
    ),
}


def measured(case: Case, changes: list[str], seeds: int, folder: Path) -> list[float]:
    """Return what a configuration with these changes ends with, for each seed; NaN where it diverged."""
    setting = Setting(case.path, [*case.changes, *changes], case.measure, case.data)
    return [
        outcome(setting, "as shipped", seed, data=folder).get(case.measure, float("nan"))
        for seed in range(1, seeds + 1)
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("BYZDIST_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--budget", type=int, default=3)
    arguments = parser.parse_args()
    print("| configuration | measured | by hand | --tune | its settings | seconds to tune |", flush=True)
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in arguments.cases:
        case, folder = CASES[name], arguments.data
        own = [*case.changes, f"data.path={folder / case.data}"] if case.data else case.changes
        started = time.monotonic()
        path, start = str(ROOT / case.path), [*own, *case.start]
        found = tune(path, start, budget=arguments.budget * load(path, start).rounds).overrides()
        seconds = time.monotonic() - started
        by_hand = fmean(measured(case, [], arguments.seeds, folder))
        tuned = fmean(measured(case, [*case.start, *found], arguments.seeds, folder))
        shown = ", ".join(f"`{word.removeprefix('method.')}`" for word in found)
        print(f"| {name} | {case.measure} | {by_hand:.3g} | {tuned:.3g} | {shown} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
