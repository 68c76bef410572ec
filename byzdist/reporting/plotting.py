"""Runs in one picture: gap or loss, and the task's first metric, against rounds and against uplink bytes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from byzdist.config.reading import read_tree
from byzdist.errors import ConfigError
from byzdist.host.files import parse_json, read_json, read_text
from byzdist.problem.evaluation import NOTES, OF_ANY_TASK
from byzdist.problem.task import Better
from byzdist.reporting.names import is_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS = {
    "gap": "gap f(x) − f(x*)",
    "loss": "loss f(x)",
    "round": "round",
    "bytes": "uplink",
}
_LINES, _MARKERS = ("-", "--", "-.", ":"), "osD^vPX*"
_LARGEST = 1 << 30  # bytes of metrics
_LARGEST_NUMBER = 1.7e308
_LONGEST_NAME = 100
_HIGHEST = 1e3  # times the first gap: the largest gap that the axis shows
_SMALLEST_GAP = 1e-17  # rounding can make a gap zero or negative, and a logarithmic axis must still show it


@dataclass(frozen=True)
class _Run:
    label: str
    metric: dict[str, Better]  # the task's first metric, and in which direction it is better; empty if there is none
    evaluations: dict[
        str, NDArray[np.float64]
    ]  # of the evaluation rounds: round, bytes, and what was measured or claimed
    spread: dict[str, NDArray[np.float64]]  # of what was claimed
    majority: dict[str, NDArray[np.float64]]  # of the rounds with a Byzantine majority: round, bytes


def plot(folders: Sequence[str | Path], out: str | Path) -> None:
    """Draw the runs in these folders into one picture; the suffix of ``out`` gives its format (png, pdf, svg, ...).

    The gap is drawn if every run has one, else the loss; the first metric of each task too, if some run has it. A strip below marks
    the rounds in which the Byzantine clients were a strict majority of the cohort. Claims of clients, if the server measures nothing,
    are marked as claimed: the median, in a band of the median distance from it.

    Raises:
        ConfigError: for a folder that holds no run or nothing to draw yet, or a picture that cannot be written.
    """
    figure = draw(folders)
    try:
        figure.savefig(out, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"-o: cannot write the picture {str(out)!r}: {error}") from error


def draw(folders: Sequence[str | Path]) -> "Figure":
    """Return the picture of the runs in these folders, which a notebook shows; see `plot`.

    Raises:
        ConfigError: a folder that is no run or has nothing to draw yet, or where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # slow to import, and only needed here
    except ImportError as error:
        raise ConfigError(f"plot: pictures need matplotlib ({error}): pip install 'byzdist[plot]'.") from None

    class Picture(Figure):
        def _repr_png_(self) -> bytes:  # for notebooks that have not imported pyplot, which would see to it
            return png(self)

    runs = _distinct([_read(Path(folder)) for folder in folders])
    rows = ["gap" if all("gap" in run.evaluations for run in runs) else "loss"]
    own = {name: better for run in runs for name, better in run.metric.items() if name in run.evaluations}
    labels = _LABELS | {name: name + NOTES[better] for name, better in own.items()}
    rows += own
    heights = [3.4] * len(rows) + [0.24 * len(runs)]
    figure = Picture(figsize=(11, sum(heights) + 0.6), layout="constrained")
    grid = figure.subplots(len(heights), 2, sharex="col", gridspec_kw={"height_ratios": heights})
    for column, x in enumerate(("round", "bytes")):
        for row, y in enumerate(rows):
            _curves(grid[row, column], runs, x, y)
            grid[row, 0].set_ylabel(labels[y])
        _strip(grid[-1, column], runs, x)
    grid[0, 0].legend(fontsize="small")
    return figure


def png(figure: "Figure", dpi: int = 80) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _curves(axes: "Axes", runs: Sequence[_Run], x: str, y: str) -> None:
    for number, run in enumerate(runs):
        if y not in run.evaluations:
            continue
        values = run.evaluations[y]
        every = max(1, len(values) // 12)
        axes.plot(
            run.evaluations[x],
            np.where(values < _SMALLEST_GAP, _SMALLEST_GAP, values) if y == "gap" else values,
            label=f"{run.label} (claimed)" if run.spread else run.label,
            color=f"C{number}",
            linestyle=_LINES[number % len(_LINES)],
            marker=_MARKERS[number % len(_MARKERS)],
            # A dozen markers on each curve, at different places, so that overlapping curves can be told apart.
            markevery=(number * every // 4 % every, every),
            markersize=5,
            linewidth=1.4,
        )
        if y in run.spread:
            low, high = values - run.spread[y], values + run.spread[y]
            axes.fill_between(run.evaluations[x], low, high, color=f"C{number}", alpha=0.2, linewidth=0)
    if y == "gap":
        axes.set_yscale("log")
        highest = _HIGHEST * max(run.evaluations[y][0] for run in runs)
        if axes.get_ylim()[1] > highest > 0:  # a diverging run leaves the picture, so that the others stay visible
            lowest = min(np.nanmin(run.evaluations[y]) for run in runs)
            axes.set_ylim(max(lowest, _SMALLEST_GAP) / 3, highest)
    axes.grid(alpha=0.3)


def _strip(axes: "Axes", runs: Sequence[_Run], x: str) -> None:
    from matplotlib.ticker import EngFormatter

    for number, run in enumerate(runs):
        axes.eventplot(run.majority[x], lineoffsets=-number, linelengths=0.8, linewidths=0.6, colors=f"C{number}")
    axes.set_ylim(0.5 - len(runs), 0.5)
    labels = [run.label for run in runs] if x == "round" else []
    axes.set_yticks([-number for number in range(len(labels))], labels, fontsize="x-small")
    if x == "bytes":
        axes.tick_params(left=False)
        axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.set_xlabel(f"{_LABELS[x]}    (strip: rounds with a Byzantine majority in the cohort)", fontsize="small")


def _distinct(runs: list[tuple[str, _Run]]) -> list[_Run]:
    """Label runs by their names, or by their folders if two runs have the same name."""
    names = [run.label for _, run in runs]
    return [run if names.count(run.label) == 1 else replace(run, label=folder) for folder, run in runs]


def _read(folder: Path) -> tuple[str, _Run]:
    try:
        config = read_tree(folder / "config.yaml", follow=False)
        lines = read_text(folder / "metrics.jsonl", _LARGEST).splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: this folder holds no run (config.yaml and metrics.jsonl): {error}") from error
    metric = _first_metric(folder)
    keys = ("gap", "loss", *metric)
    rounds = [
        _parse(folder, number, line, keys)
        for number, line in enumerate(lines, 1)
        if number < len(lines) or _whole(line)
    ]
    evaluated = [number for number, line in enumerate(rounds) if "loss" in line or "claimed" in line]
    if not evaluated:
        raise ConfigError(f"{folder}: this run has no evaluation yet; there is nothing to draw.")
    sent = np.cumsum([line["bytes_up"] for line in rounds], dtype=np.float64)
    majority = [number for number, line in enumerate(rounds) if 2 * line["byzantine"] > len(line["cohort"])]
    at = np.array([line["round"] for line in rounds], dtype=np.float64)
    evaluations = {"round": at[evaluated], "bytes": sent[evaluated]}
    for key in keys:
        values = [rounds[number].get(key) for number in evaluated]
        if any(value is not None for value in values):
            evaluations[key] = np.array(values, dtype=np.float64)  # None, of a run that diverged, becomes NaN
    claims = [_claims(folder, rounds[number], keys) for number in evaluated]
    spread = dict[str, NDArray[np.float64]]()
    for key in keys:
        if any(key in claim for claim in claims):
            evaluations[key], spread[key] = np.array([claim.get(key, (np.nan, np.nan)) for claim in claims]).T
    name = str(config.get("name") or folder.name)[:_LONGEST_NAME]
    return str(folder), _Run(name, metric, evaluations, spread, {"round": at[majority], "bytes": sent[majority]})


def _claims(folder: Path, line: dict[str, Any], keys: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the median and the spread of what clients claim in a line of metrics, by the keys that are drawn."""
    try:
        claimed = {
            key: (found["median"], found["spread"]) for key, found in line.get("claimed", {}).items() if key in keys
        }
        if all(_is_number(value) for claim in claimed.values() for value in claim):
            return claimed
    except (AttributeError, TypeError, KeyError):
        pass
    raise ConfigError(f"{folder}/metrics.jsonl: round {line['round']}: claimed is not what a run writes.")


def _first_metric(folder: Path) -> dict[str, Better]:
    """Return the first metric of the run's task and its direction, as run.json has it; accuracy if it does not say."""
    try:
        described = read_json(folder / "run.json")
        metrics = described.get("metrics", {"accuracy": "higher"})  # earlier versions do not say
        own = {name: better for name, better in metrics.items() if name not in OF_ANY_TASK}
    except FileNotFoundError:
        return {"accuracy": "higher"}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder}/run.json: this is not what a run writes: {error}") from error
    for name, better in own.items():
        if not is_name(name) or better not in ("higher", "lower"):
            raise ConfigError(f"{folder}/run.json: 'metrics' is not what a run writes.")
    return dict(list(own.items())[:1])


def _whole(line: str) -> bool:
    """Return whether the last line is complete: a run that still trains, or was killed, may leave a part of one."""
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _parse(folder: Path, number: int, text: str, keys: Sequence[str]) -> dict[str, Any]:
    try:
        line: dict[str, Any] = parse_json(text)
        missing = {"round", "cohort", "byzantine", "bytes_up"} - line.keys()
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{folder}/metrics.jsonl: line {number} is not a metrics line: {error}") from error
    if missing:
        raise ConfigError(f"{folder}/metrics.jsonl: line {number} lacks {', '.join(sorted(missing))}.")
    wrong = [key for key in ("round", "byzantine", "bytes_up") if not _is_number(line[key])]
    wrong += [key for key in keys if line.get(key) is not None and not _is_number(line[key])]
    if wrong or not isinstance(line["cohort"], list):
        raise ConfigError(
            f"{folder}/metrics.jsonl: line {number}: {', '.join(wrong) or 'cohort'} is not what a run writes."
        )
    return line


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST_NUMBER or value != value
