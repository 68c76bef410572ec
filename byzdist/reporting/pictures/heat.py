"""A heat map: the last value of a metric by two settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from byzdist.problem.evaluation import OF_ANY_TASK
from byzdist.problem.task import Better
from byzdist.reporting.pictures.history import Array, History
from byzdist.reporting.pictures.settings import ordered, values
from byzdist.reporting.pictures.style import COLOURS, INK, metric_label, plain
from byzdist.words import short_key

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Heat:
    """The cells of a heat map, rows by columns.

    Attributes:
        mean: of the last finite values of the cell's runs that did not diverge; NaN if there are none.
        error: one standard error of the mean; NaN for fewer than two runs.
        runs, diverged: how many runs a cell has, and how many of them diverged.
    """

    rows: list[str]
    columns: list[str]
    mean: Array
    error: Array
    runs: Array
    diverged: Array


def heat(runs: Sequence[History], keys: Sequence[str], y: str) -> Heat:
    """Return the cells.

    Args:
        runs: those that measured the metric, or diverged.
        keys: of the rows, and of the columns.
        y: the metric.
    """
    down, across = (values(runs, key) for key in keys)
    rows, columns = ordered(down), ordered(across)
    mean, error, count, diverged = (np.full((len(rows), len(columns)), fill) for fill in (np.nan, np.nan, 0.0, 0.0))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            cell = [run for run, *place in zip(runs, down, across, strict=True) if place == [row, column]]
            lasts = [last for run in cell if not run.diverged and (last := last_value(run, y)) is not None]
            count[i, j], diverged[i, j] = len(cell), sum(run.diverged for run in cell)
            if lasts:
                mean[i, j] = np.mean(lasts)
            if len(lasts) > 1:
                error[i, j] = np.std(lasts, ddof=1) / np.sqrt(len(lasts))
    return Heat(rows, columns, mean, error, count, diverged)


def last_value(run: History, y: str) -> float | None:
    """Return the last finite value of a metric; None if there is none."""
    found = run.measured(y)
    if found is None:
        return None
    finite = found.values[np.isfinite(found.values)]
    return float(finite[-1]) if finite.size else None


def draw_heat(
    figure: "Figure", runs: Sequence[History], keys: Sequence[str], y: str, better: Mapping[str, Better]
) -> None:
    """Draw the map; each cell says its value, and how many of its runs diverged. The better, the darker."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patches import Rectangle

    found = heat(runs, keys, y)
    axes = figure.subplots()
    finite = found.mean[np.isfinite(found.mean)]
    is_log = y == "gap" and finite.size > 0 and finite.min() > 0
    norm = LogNorm() if is_log else Normalize()
    lower = (OF_ANY_TASK | dict(better)).get(y) == "lower"
    image = axes.imshow(found.mean, cmap="cividis" if lower else "cividis_r", norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(found.mean):
        text = cell_text(found, i, j)
        if found.diverged[i, j]:
            corner = (j - 0.5, i - 0.5)
            axes.add_patch(
                Rectangle(corner, 1, 1, fill=False, hatch="//", edgecolor=COLOURS[3], linewidth=0, alpha=0.6)
            )
        shade = image.cmap(norm(value))
        bright = 0.3 * shade[0] + 0.59 * shade[1] + 0.11 * shade[2] > 0.5
        colour = INK if np.isnan(value) else "black" if bright else "white"
        axes.text(j, i, text, ha="center", va="center", fontsize="small", color=colour)
    axes.set_xticks(range(len(found.columns)), [plain(text) for text in found.columns], rotation=20, ha="right")
    axes.set_yticks(range(len(found.rows)), [plain(text) for text in found.rows])
    axes.set_xlabel(plain(short_key(keys[1], keys)))
    axes.set_ylabel(plain(short_key(keys[0], keys)))
    if finite.size:
        figure.colorbar(image, label=f"last {metric_label(y, dict(better))}")


def cell_text(found: Heat, i: int, j: int) -> str:
    """Return what a cell says."""
    if not found.runs[i, j]:
        return "no run"
    lines = []
    if np.isfinite(found.mean[i, j]):
        lines.append(f"{found.mean[i, j]:.4g}")
        if np.isfinite(found.error[i, j]):
            lines[0] += f" ± {found.error[i, j]:.1g}"
    if found.diverged[i, j]:
        lines.append(f"{found.diverged[i, j]:.0f} of {found.runs[i, j]:.0f} diverged")
    return "\n".join(lines) or "not measured"
