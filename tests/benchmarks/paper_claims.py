"""What [BRPP] claims of its figures, checked in the metrics of sweeps; exit code 1 if a claim does not hold, 2 if a run is missing.

usage: python -m tests.benchmarks.paper_claims DIR...      (folders of sweeps of configs/paper, see docs/paper.md)

Figure 1, runs with a gap; each curve counts at its best step size, that with the lowest mean gap at the end:
* with clipping, convergence is linear: a straight line through log gap by rounds, down to 1e-11, has R² of 0.9 at least and falls;
* without clipping, half of the starting gap is still there at the end;
* all clients in every round, without clipping, end above the best clipped curve (the sweep gives both the same uplink bytes).

Figures 2 to 4, runs with an accuracy: each cell is a mean over seeds; a run that has diverged counts as 0.
* with clipping, each (rule, attack) reaches 90 % of the rule's attack-free accuracy, the better one of those with and without clipping;
* without clipping, shift_back leaves less than that 90 %;
* without clipping, shift_back ends near chance, at 0.2 or below.
"""

import argparse
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from byzdist.errors import ConfigError
from byzdist.scripting.results import Run, load_run
from byzdist.sweeping.measured import find_runs

SHARE, CHANCE = 0.9, 0.2  # of the attack-free accuracy; of ten classes
STRAIGHT, ROUNDING, LEFT = 0.9, 1e-11, 0.5  # R²; a gap of float64's rounding; of the starting gap


class Curve(NamedTuple):
    """The gaps of a run and the rounds after which they were measured."""

    rounds: np.ndarray
    gaps: np.ndarray


class Claim(NamedTuple):
    """One claim: what it is about, what was measured, and whether it holds; None where the paper claims nothing."""

    subject: str
    measured: str
    holds: bool | None


def networks(runs: Sequence[Run]) -> Iterator[Claim]:
    """Check the claims of Figures 2 to 4."""
    cells: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
    for run in runs:
        tree, summary = run.config, run.summary
        key = (tree["aggregation"]["rule"]["name"], tree["attack"]["name"], tree["method"]["clip"] != "none")
        cells[key].append(summary.get("accuracy") or 0.0)
    means = {key: statistics.mean(values) for key, values in cells.items()}
    for (rule, attack, clipped), mean in sorted(means.items()):
        free = max(means.get((rule, "none", side), math.nan) for side in (True, False))
        values = cells[rule, attack, clipped]
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        subject = f"{rule}, {attack}, {'clipped' if clipped else 'not clipped'}"
        measured = f"accuracy {mean:.3f} (s {spread:.3f}), {mean / free:.0%} of {free:.3f}"
        if clipped:
            yield Claim(f"{subject}: withstood", measured, mean >= SHARE * free)
        elif attack == "shift_back":
            yield Claim(f"{subject}: not withstood", measured, mean < SHARE * free)
            yield Claim(f"{subject}: near chance", ", ".join(f"{value:.3f}" for value in values), mean <= CHANCE)
        else:
            yield Claim(subject, measured, None)


def logistic(runs: Sequence[Run]) -> Iterator[Claim]:
    """Check the claims of Figure 1."""
    curves: dict[tuple[bool, str], dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        tree, metrics = run.config, run.metrics
        there = np.isfinite(metrics["gap"])
        key = tree["method"]["cohort"] == tree["clients"]["count"], str(tree["method"]["clip"])
        step = str(tree["method"].get("step_size"))
        curves[key][step].append(Curve(metrics["round"][there], metrics["gap"][there]))
    best = {key: min(steps, key=lambda step: _end(steps[step])) for key, steps in curves.items()}
    ends = {key: _end(curves[key][step]) for key, step in best.items()}
    lowest = min((end for (_, clip), end in ends.items() if clip != "none"), default=math.nan)
    for (everyone, clip), step in sorted(best.items()):
        members, end = curves[everyone, clip][step], ends[everyone, clip]
        start = statistics.mean(curve.gaps[0] for curve in members)
        measured = f"step {step}: gap {start:.3g} to {end:.2g}"
        if clip != "none":
            fits = [_fit(curve) for curve in members]
            straight = min(fit[1] for fit in fits)
            rates = " ".join(f"{fit[0]:.2g}" for fit in fits)
            measured += f", times {rates} in 1000 rounds, R² at least {straight:.3f}"
            holds = straight >= STRAIGHT and all(fit[0] < 1 for fit in fits)
        elif everyone:
            holds = end > lowest
        else:
            holds = end >= LEFT * start
        yield Claim(f"{'all clients' if everyone else 'a cohort'}, clip {clip}", measured, holds)


def _end(curves: Sequence[Curve]) -> float:
    return statistics.mean(curve.gaps[-1] for curve in curves)


def _fit(curve: Curve) -> tuple[float, float]:
    """Return by what the gap is multiplied in 1000 rounds, on a straight line through its logarithm, and the line's R²."""
    above = int(np.argmax(curve.gaps <= ROUNDING)) or len(curve.gaps)
    x, y = curve.rounds[:above], np.log10(curve.gaps[:above])
    slope, _ = np.polyfit(x, y, 1)
    return float(10 ** (1000 * slope)), float(np.corrcoef(x, y)[0, 1] ** 2)


def check(folders: Sequence[Path]) -> list[Claim]:
    """Return the claims on the runs of these folders, all of Figure 1 or all of the others."""
    runs = [load_run(found.folder) for found in find_runs(folders)]
    for run in runs:
        if run.summary["status"] not in ("finished", "diverged"):
            raise ConfigError(f"{run.path} is {run.summary['status']}; finish the sweep first.")
    if any("gap" in run.summary for run in runs):
        return list(logistic(runs))
    return list(networks(runs))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the claims of each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    failed = 0
    for folder in parser.parse_args(arguments).folders:
        print(folder)
        try:
            claims = check([folder])
        except ConfigError as error:  # a run is missing
            print(error, file=sys.stderr)
            return 2
        for claim in claims:
            word = {True: "holds", False: "FAILS", None: ""}[claim.holds]
            print(f"  {word:<6} {claim.subject:<62} {claim.measured}")
            failed += claim.holds is False
    print("every claim holds" if not failed else f"{failed} claims fail")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
