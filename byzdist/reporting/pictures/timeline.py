"""A run round by round: cohorts, Byzantine shares, missing replies, clipped shares, and which rounds were special."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from byzdist.reporting.pictures.history import Array, History
from byzdist.reporting.pictures.style import COLOURS, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 200  # a longer run is drawn in at most this many parts, each as its mean, its smallest and its largest value


@dataclass(frozen=True)
class Timeline:
    """What happened in each round of a run; NaN where a quantity does not apply.

    Attributes:
        cohort: how many clients were asked in sampled rounds.
        byzantine: the Byzantine share of the cohort in sampled rounds.
        missing: how many replies were missing.
        clipped: the share of the replies that were clipped, in rounds that clip.
        full, majority, untrusted: the rounds that were full, had a Byzantine majority, were not trusted.
    """

    rounds: Array
    cohort: Array
    byzantine: Array
    missing: Array
    clipped: Array
    full: Array
    majority: Array
    untrusted: Array


def timeline(run: History) -> Timeline:
    """Return a run's timeline."""

    def each(of: Callable[[dict[str, Any]], float]) -> Array:
        return np.array([of(line) for line in run.lines], dtype=np.float64)

    def those(chosen: Callable[[dict[str, Any]], bool]) -> Array:
        return np.array([line["round"] for line in run.lines if chosen(line)], dtype=np.float64)

    def sampled(line: dict[str, Any], value: float) -> float:
        return np.nan if line.get("kind") == "full" else value

    return Timeline(
        run.rounds,
        each(lambda line: sampled(line, len(line["cohort"]))),
        each(lambda line: sampled(line, line["byzantine"] / max(1, len(line["cohort"])))),
        each(lambda line: len(line.get("missing", {}))),
        each(_clipped_share),
        those(lambda line: line.get("kind") == "full"),
        run.rounds[run.majorities],
        those(lambda line: "untrusted" in line),
    )


def _clipped_share(line: dict[str, Any]) -> float:
    if line.get("clip_level") is None:
        return np.nan
    return float(line.get("clipped") or 0) / max(1, len(line["cohort"]) - len(line.get("missing", {})))


def draw_timeline(figure: "Figure", run: History) -> None:
    """Draw a run's timeline: a panel for each quantity that the run has, and strips for the special rounds that it has."""
    from matplotlib.ticker import MaxNLocator

    found = timeline(run)
    panels = {
        "cohort": found.cohort,
        "Byzantine share": found.byzantine,
        "missing replies": found.missing,
        "clipped share": found.clipped,
    }
    panels = {name: values for name, values in panels.items() if np.isfinite(values).any()}
    marks = {"full rounds": found.full, "Byzantine majority": found.majority, "not trusted": found.untrusted}
    marks = {name: rounds for name, rounds in marks.items() if rounds.size}
    heights = [1.3] * len(panels) + ([0.3 * len(marks)] if marks else [])
    figure.set_size_inches(figure.get_figwidth(), sum(heights) + 0.8)
    grid = figure.subplots(len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, (name, values), colour in zip(grid, panels.items(), COLOURS[2:], strict=False):
        _panel(axes, found.rounds, values, colour)
        axes.set_ylabel(name.replace(" ", "\n"), fontsize="small")
        axes.set_ylim(-0.05, 1.05 if name.endswith("share") else 1.1 * max(1.0, np.nanmax(values)))
        if not name.endswith("share"):
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        if name == "Byzantine share":
            axes.axhline(0.5, color=COLOURS[0], linewidth=0.8, linestyle=":")
    if marks:
        strips = grid[-1]
        for row, rounds in enumerate(marks.values()):
            strips.eventplot(
                rounds, lineoffsets=-row, linelengths=0.8, linewidths=0.7, colors=COLOURS[row], **thin(rounds)
            )
        strips.set_ylim(0.5 - len(marks), 0.5)
        strips.set_yticks([-row for row in range(len(marks))], list(marks), fontsize="small")
    grid[-1].set_xlabel("round", fontsize="small")


def _panel(axes: "Axes", rounds: Array, values: Array, colour: str) -> None:
    known = np.isfinite(values)
    rounds, values = rounds[known], values[known]
    size = -(-len(values) // _BINS)
    ends = range(size, len(values), size)
    parts: list[NDArray[np.float64]] = np.split(values, ends)
    middles = [part.mean() for part in np.split(rounds, ends)]
    axes.plot(middles, [part.mean() for part in parts], color=colour, linewidth=1.2, drawstyle="steps-mid")
    if len(parts) < len(values):
        axes.fill_between(
            middles,
            [part.min() for part in parts],
            [part.max() for part in parts],
            color=colour,
            alpha=0.2,
            linewidth=0,
            step="mid",
        )
    axes.grid(alpha=0.3)
