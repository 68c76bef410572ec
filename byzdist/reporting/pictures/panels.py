"""The parts of a picture of curves: a panel, a strip of Byzantine majorities, and the legend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from byzdist.problem.evaluation import OF_ANY_TASK
from byzdist.problem.task import Better
from byzdist.reporting.pictures.curves import Axis, Curve, positions
from byzdist.reporting.pictures.history import History
from byzdist.reporting.pictures.style import axis_label, look, plain, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HIGHEST_GAP, _HIGHEST = 1e3, 2.0  # times the first value: the largest that the axis shows if a run diverges
_SMALLEST_GAP = 1e-17  # rounding can make a gap zero or negative, and a logarithmic axis must still show it
_MARKERS = 12  # on each curve
DIVERGED = "diverged"
_TOLD = 8  # curves in a panel that has room to say how many runs of each diverged
_STRIPS = 12  # with more of them nothing can be seen


def draw_panels(
    panels: Sequence[tuple["Axes", Sequence[Curve]]], looks: Mapping[str, int], y: str, better: Mapping[str, Better]
) -> None:
    """Draw the curves of a metric, each with its band, and mark where diverged ones end.

    Args:
        panels: which curves are drawn where; several panels share their axes.
        looks: the number of each label's look.
        y: the metric.
        better: in which direction each metric is better.
    """
    for axes, curves in panels:
        for curve in curves:
            _draw(axes, curve, looks[curve.label], y)
        if y == "gap":
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    everything = [curve for _, curves in panels for curve in curves]
    if (OF_ANY_TASK | dict(better)).get(y) == "lower":
        _limit(panels[0][0], everything, y)
    if any(curve.diverged for curve in everything):
        low, top = panels[0][0].get_ylim()
        for axes, curves in panels:
            _mark_ends(axes, curves, looks, top)
        panels[0][0].set_ylim(low, top)


def _mark_ends(axes: "Axes", curves: Sequence[Curve], looks: Mapping[str, int], top: float) -> None:
    """Mark where curves of diverged runs end, or leave the panel for good, with how many runs diverged."""
    for curve in curves:
        seen = np.flatnonzero(np.isfinite(curve.y))
        if not curve.diverged or not seen.size:
            continue
        inside = np.flatnonzero(curve.y[seen] <= top)
        end = seen[min(len(seen) - 1, inside[-1] + 1 if inside.size else 0)]
        x, y, colour = curve.x[end], min(curve.y[end], top), look(looks[curve.label])["color"]
        axes.plot(
            [x], [y], "X", color=colour, markersize=9, markeredgecolor="white", clip_on=False, label=DIVERGED, zorder=5
        )
        if curve.runs > 1 and len(curves) <= _TOLD:
            told = f"{curve.diverged} of {curve.runs}"
            axes.annotate(told, (x, y), (6, -3), textcoords="offset points", fontsize="x-small", annotation_clip=False)


def _draw(axes: "Axes", curve: Curve, number: int, y: str) -> None:
    style = look(number)
    every = max(1, len(curve.y) // _MARKERS)
    floor = _SMALLEST_GAP if y == "gap" else -np.inf
    axes.plot(
        curve.x,
        np.where(curve.y < floor, floor, curve.y),
        label=plain(curve.label) + (" (claimed)" if curve.claimed else ""),
        **style,
        # At different places, so that overlapping curves can be told apart.
        markevery=(number * every // 4 % every, every),
        markersize=5,
        linewidth=1.4,
    )
    if curve.error is not None:
        low, high = np.maximum(curve.y - curve.error, floor), curve.y + curve.error
        axes.fill_between(curve.x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _limit(axes: "Axes", curves: Sequence[Curve], y: str) -> None:
    """Let a diverging run leave the picture, so that the others stay visible."""
    values = [curve.y[np.isfinite(curve.y)] for curve in curves]
    values = [found for found in values if found.size]
    if not values:
        return
    highest = (_HIGHEST_GAP if y == "gap" else _HIGHEST) * max(found[0] for found in values)
    if not axes.get_ylim()[1] > highest > 0:
        return
    lowest = min(found.min() for found in values)
    if y == "gap":
        axes.set_ylim(max(lowest, _SMALLEST_GAP) / 3, highest)
    elif any(curve.diverged for curve in curves):
        axes.set_ylim(min(lowest, 0), highest)


@dataclass(frozen=True)
class Strip:
    """The rounds with a Byzantine majority that one curve or several share: where they lie on each axis, and whose they are."""

    places: tuple[list[float], ...]
    labels: list[str]


def strips(curves: Mapping[str, Sequence[History]], axes_of: Sequence[Axis]) -> list[Strip]:
    """Return the strips of all curves that have majorities; an empty list if they are too many to be seen.

    With the same seeds the cohorts are the same, whatever the rule and the attack. Such curves share the strip of the curve
    that goes furthest.
    """
    found: list[Strip] = []
    for label, runs in sorted(curves.items(), key=lambda item: -sum(len(run.lines) for run in item[1])):
        if not any(run.majorities.size for run in runs):
            continue
        kept = next((strip for strip in found if _agree(runs, curves[strip.labels[0]], axes_of)), None)
        if kept is None:
            found.append(Strip(tuple(_places(runs, axis) for axis in axes_of), [label]))
        else:
            kept.labels.append(label)
    return found if len(found) <= _STRIPS else []


def _agree(some: Sequence[History], others: Sequence[History], axes_of: Sequence[Axis]) -> bool:
    """Return whether runs have the same majorities as others, pair by pair, as far as they go."""
    return len(some) == len(others) and all(
        np.array_equal(positions(one, axis)[: len(other.lines)], positions(other, axis)[: len(one.lines)])
        and np.array_equal(
            one.majorities[one.majorities < len(other.lines)], other.majorities[other.majorities < len(one.lines)]
        )
        for one, other in zip(some, others, strict=True)
        for axis in axes_of
    )


def _places(runs: Sequence[History], axis: Axis) -> list[float]:
    return sorted({float(place) for run in runs for place in positions(run, axis)[run.majorities]})


def draw_strips(axes: "Axes", found: Sequence[Strip], looks: Mapping[str, int], column: int, axis: Axis) -> None:
    """Draw the strips below a column of panels; the first column names them."""
    for row, strip in enumerate(found):
        colour = look(looks[strip.labels[0]] if len(strip.labels) == 1 else 0)["color"]
        places = strip.places[column]
        axes.eventplot(places, lineoffsets=-row, linelengths=0.8, linewidths=0.6, colors=colour, **thin(places))
    axes.set_ylim(0.5 - len(found), 0.5)
    told = [] if column else [strip.labels for strip in found]
    names = [plain(labels[0]) if len(labels) == 1 else f"{len(labels)} curves" for labels in told]
    axes.set_yticks([-row for row in range(len(names))], names, fontsize="x-small")
    if column:
        axes.tick_params(left=False)
    axis_below(axes, axis, "    (strip: rounds with a Byzantine majority in the cohort)")


def axis_below(axes: "Axes", axis: Axis, note: str = "") -> None:
    """Label the axis of rounds, gradients, bytes or seconds."""
    from matplotlib.ticker import EngFormatter

    if axis in ("bytes", "gradients"):
        axes.xaxis.set_major_formatter(EngFormatter(unit="B" if axis == "bytes" else ""))
    axes.set_xlabel(axis_label(axis) + note, fontsize="small")


def legend(figure: "Figure", panels: Sequence["Axes"]) -> None:
    """Put a legend of all curves beside the panels."""
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        if label
    }
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside right upper", fontsize="small", handlelength=3.5
        )
