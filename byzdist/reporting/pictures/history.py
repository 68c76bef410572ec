"""What a run's folder says of the run, read and checked for pictures and reports. A run may go on meanwhile."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from byzdist.config.reading import read_tree
from byzdist.errors import ConfigError
from byzdist.host.files import read_json
from byzdist.problem.evaluation import OF_ANY_TASK
from byzdist.problem.task import Better
from byzdist.reporting.names import is_name
from byzdist.storage.folder import CONFIG, METRICS, RUN, SUMMARY
from byzdist.storage.lines import read_lines
from byzdist.words import flat

Array = NDArray[np.float64]
_LARGEST_NUMBER = 1.7e308
_LONGEST_NAME = 100
_NEEDED = ("round", "cohort", "byzantine", "bytes_up")


@dataclass(frozen=True)
class Series:
    """A metric of a run: the lines that have it, its values (NaN if not finite), and the spread of claims."""

    lines: NDArray[np.int64]
    values: Array
    spread: Array | None


@dataclass(frozen=True, eq=False)
class History:
    """A run, as its folder has it.

    Attributes:
        tree: config.yaml.
        described: run.json; empty if there is none.
        metrics: the task's own metrics, and in which direction each is better.
        lines: those of metrics.jsonl.
        summary: summary.json; None for a run that goes on, or was killed.
    """

    folder: Path
    tree: dict[str, Any]
    described: dict[str, Any]
    metrics: dict[str, Better]
    lines: list[dict[str, Any]]
    summary: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The run's name in its configuration, or its folder's."""
        return str(self.tree.get("name") or self.folder.name)[:_LONGEST_NAME]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration by dotted keys; lists are values."""
        return flat(self.tree)

    @property
    def status(self) -> str:
        """How the run ended, or "unfinished"."""
        return "unfinished" if self.summary is None else str(self.summary.get("status", "unfinished"))[:_LONGEST_NAME]

    @cached_property
    def diverged(self) -> bool:
        """Whether the run ended as diverged, or its last loss is not finite."""
        loss = self.measured("loss")
        return self.status == "diverged" or loss is not None and not math.isfinite(loss.values[-1])

    def measured(self, key: str) -> Series | None:
        """Return a metric, or another number of the metrics lines such as ``clip_level`` or ``seconds.total``; None if no line has it."""
        section, _, below = key.rpartition(".")
        lines, values, spreads = [], [], []
        for number, line in enumerate(self.lines):
            claim = line.get("claimed", {}).get(key)
            held = line.get(section, {}) if section else line
            if claim is None and below not in held:
                continue
            value, spread = (claim["median"], claim["spread"]) if claim is not None else (held[below], 0.0)
            lines.append(number)
            values.append(np.nan if value is None else value)
            spreads.append(spread)
        try:
            found = np.array(values, dtype=np.float64)
        except (ValueError, TypeError):
            raise ConfigError(f"--y: {key} is not a number in {self.folder / METRICS}.") from None
        if np.isnan(found).all():
            return None
        claimed = any("claimed" in self.lines[number] and key in self.lines[number]["claimed"] for number in lines)
        return Series(np.array(lines), found, np.array(spreads) if claimed else None)

    @cached_property
    def is_evaluated(self) -> bool:
        """Whether the run has an evaluation, or a claim, so far."""
        return any("loss" in line or "claimed" in line for line in self.lines)

    @cached_property
    def rounds(self) -> Array:
        """The number of each line's round."""
        return np.array([line["round"] for line in self.lines], dtype=np.float64)

    @cached_property
    def majorities(self) -> NDArray[np.int64]:
        """The lines whose cohort had a Byzantine majority."""
        return np.flatnonzero([2 * line["byzantine"] > len(line["cohort"]) for line in self.lines])


def histories(folders: Sequence[str | Path]) -> list[History]:
    """Return the runs in these folders, each a run's or one that has runs somewhere below it.

    Raises:
        ConfigError: for a folder without runs, or a run whose files are not what a run writes.
    """
    paths = dict.fromkeys(path for folder in folders for path in _runs_in(Path(folder)))
    return [read_history(path) for path in paths]


def _runs_in(folder: Path) -> list[Path]:
    if _is_run(folder):
        return [folder]
    found = []
    for place, below, _ in os.walk(folder):  # which follows no links
        below.sort()
        if _is_run(Path(place)):
            found.append(Path(place))
            below.clear()
    if not found:
        raise ConfigError(f"{folder}: this folder holds no run ({CONFIG} and {METRICS}), nor does a folder in it.")
    return found


def _is_run(folder: Path) -> bool:
    return os.path.lexists(folder / CONFIG) and os.path.lexists(folder / METRICS)


def read_history(folder: Path) -> History:
    """Return the run in a folder.

    Raises:
        ConfigError: if there is none, or its files are not what a run writes.
    """
    if not _is_run(folder):
        raise ConfigError(f"{folder}: this folder holds no run ({CONFIG} and {METRICS}).")
    try:
        tree = read_tree(folder / CONFIG, follow=False)
    except ConfigError as error:
        raise ConfigError(f"{folder}: this folder holds no run: {error}") from error
    lines = read_lines(folder)
    described = _optional(folder / RUN) or {}
    metrics = _metrics(folder, described)
    for number, line in enumerate(lines, 1):
        _check(folder, number, line, (*OF_ANY_TASK, *metrics))
    return History(folder, tree, described, metrics, lines, _optional(folder / SUMMARY))


def _optional(path: Path) -> dict[str, Any] | None:
    try:
        found = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: this is not what a run writes: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: this is not what a run writes.")
    return found


def _metrics(folder: Path, described: Mapping[str, Any]) -> dict[str, Better]:
    """Return the metrics of the run's task, as run.json has them; accuracy if it does not say, as in earlier versions."""
    metrics = described.get("metrics", {"accuracy": "higher"})
    if not isinstance(metrics, dict):
        raise ConfigError(f"{folder}/run.json: 'metrics' is not what a run writes.")
    own: dict[str, Better] = {name: better for name, better in metrics.items() if name not in OF_ANY_TASK}
    for name, better in own.items():
        if not is_name(name) or better not in ("higher", "lower"):
            raise ConfigError(f"{folder}/run.json: 'metrics' is not what a run writes.")
    return own


def _check(folder: Path, number: int, line: dict[str, Any], keys: Sequence[str]) -> None:
    where = f"{folder}/{METRICS}: line {number}"
    if lacking := set(_NEEDED) - line.keys():
        raise ConfigError(f"{where} lacks {', '.join(sorted(lacking))}.")
    wrong = [key for key in ("round", "byzantine", "bytes_up") if not _is_number(line[key])]
    wrong += [
        key for key in (*keys, "clipped", "clip_level") if line.get(key) is not None and not _is_number(line[key])
    ]
    wrong += [key for key in ("missing", "seconds") if not isinstance(line.get(key, {}), dict)]
    if not isinstance(line["cohort"], list) or not all(type(client) is int for client in line["cohort"]):
        wrong.append("cohort")
    if not isinstance(line.get("news", []), list):
        wrong.append("news")
    if not wrong and not all(map(_is_number, line.get("seconds", {}).values())):
        wrong.append("seconds")
    if wrong:
        raise ConfigError(f"{where}: {', '.join(wrong)} is not what a run writes.")
    try:
        claims = [claim[of] for claim in line.get("claimed", {}).values() for of in ("median", "spread")]
    except (AttributeError, TypeError, KeyError):
        claims = ["not a claim"]
    if not all(map(_is_number, claims)):
        raise ConfigError(f"{folder}/{METRICS}: round {line['round']}: claimed is not what a run writes.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST_NUMBER or value != value
