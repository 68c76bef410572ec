"""Which runs make a curve, and the curve that they make: a mean with its standard error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from byzdist.errors import ConfigError
from byzdist.reporting.pictures.gradients import gradients
from byzdist.reporting.pictures.history import Array, History, Series
from byzdist.reporting.pictures.settings import differing, labels, same

Axis = Literal["rounds", "gradients", "bytes", "seconds"]


@dataclass(frozen=True)
class Curve:
    """A curve, ready to be drawn.

    Attributes:
        x: where it was measured: the mean over the runs, whose rounds are the same but may cost different bytes or seconds.
        y: the mean over the runs, as far as all of them go.
        error: one standard error of that mean, or the spread of what clients claim; None for one measured run.
        claimed: whether clients claim y.
        diverged: how many of the runs diverged.
    """

    label: str
    x: Array
    y: Array
    error: Array | None
    claimed: bool
    diverged: int
    runs: int


def positions(run: History, axis: Axis) -> Array:
    """Return where on an axis each line of a run lies: its round, or the sum up to its end.

    Raises:
        ConfigError: if the run's folder does not say.
    """
    if axis == "rounds":
        return run.rounds
    if axis == "gradients":
        return np.cumsum(gradients(run))
    if axis == "bytes":
        return np.cumsum([line["bytes_up"] for line in run.lines], dtype=np.float64)
    try:
        return np.cumsum([line["seconds"]["total"] for line in run.lines], dtype=np.float64)
    except KeyError:
        raise ConfigError(f"--x seconds: {run.folder}: its metrics have no seconds.total.") from None


def groups(runs: Sequence[History], keys: Sequence[str] | None = None) -> dict[str, list[History]]:
    """Return the runs of each curve by the curve's label.

    Args:
        runs: all of them.
        keys: runs with the same values of these keys make a curve; without any key, all runs do, and the curve has no label. None:
            runs that differ in seed (and name) only. If a seed comes twice among these, each name makes a curve, or else each folder.
    """
    if keys is not None:
        return _by(runs, labels(runs, keys))
    found = [
        part
        for group in _by(runs, [same(run) for run in runs]).values()
        for part in _split(group, lambda run: run.name, lambda run: str(run.folder))
    ]
    firsts = [group[0] for group in found]
    names = [{run.name for run in group} for group in found]
    told = [run.name for run in firsts]
    if len(set(told)) < len(told) or any(len(name) > 1 for name in names) and found[1:]:
        told = labels(firsts, differing(firsts))
    folders = [str(run.folder) for run in firsts]
    told = [
        folder if told.count(label) > 1 or not label else label for label, folder in zip(told, folders, strict=True)
    ]
    return dict(zip(told, found, strict=True))


def _by(runs: Sequence[History], texts: Sequence[str]) -> dict[str, list[History]]:
    found: dict[str, list[History]] = {}
    for run, text in zip(runs, texts, strict=True):
        found.setdefault(text, []).append(run)
    return found


def _split(group: list[History], *ways: Callable[[History], str]) -> list[list[History]]:
    seeds = [str(run.settings.get("seed")) for run in group]
    if len(set(seeds)) == len(seeds) or not ways:
        return [group]
    way, *others = ways
    return [part for below in _by(group, [way(run) for run in group]).values() for part in _split(below, *others)]


def curve(label: str, runs: Sequence[History], y: str, axis: Axis) -> Curve | None:
    """Return the mean of a metric over runs, at the rounds in which all of them measured it; None if none of them did.

    So the curve ends where the first of its runs ends: the mean of those that go on would hide that one diverged.
    """
    measured = [(run, found) for run in runs if (found := run.measured(y)) is not None]
    if not measured:
        return None
    common = np.array(sorted(set.intersection(*({*run.rounds[found.lines]} for run, found in measured))))
    x = np.mean([_at(run, found, common, positions(run, axis)[found.lines]) for run, found in measured], axis=0)
    values = np.array([_at(run, found, common, found.values) for run, found in measured])
    claimed = any(found.spread is not None for _, found in measured)
    error = None
    if len(measured) > 1:
        error = values.std(axis=0, ddof=1) / np.sqrt(len(measured))
    elif claimed:
        run, found = measured[0]
        error = _at(run, found, common, found.spread)
    return Curve(label, x, values.mean(axis=0), error, claimed, sum(run.diverged for run in runs), len(measured))


def _at(run: History, found: Series, common: Array, of: Array | None) -> Array:
    """Return what belongs to the common rounds; if a round is there twice, its first line counts."""
    assert of is not None
    rounds = run.rounds[found.lines]
    _, first = np.unique(rounds, return_index=True)
    return of[first[np.searchsorted(rounds[first], common)]]
