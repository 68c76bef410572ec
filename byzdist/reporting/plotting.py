"""Runs in one picture: curves side by side or in facets, a heat map, or the timeline of one run."""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from byzdist.errors import ConfigError
from byzdist.problem.task import Better
from byzdist.reporting.pictures.curves import Axis, Curve, curve, groups
from byzdist.reporting.pictures.heat import draw_heat
from byzdist.reporting.pictures.history import History, histories
from byzdist.reporting.pictures.panels import axis_below, draw_panels, draw_strips, legend, strips
from byzdist.reporting.pictures.settings import differing, ordered, values
from byzdist.reporting.pictures.style import SETTINGS, metric_label, plain
from byzdist.reporting.pictures.timeline import draw_timeline
from byzdist.words import short_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """What a picture shows of the runs.

    Attributes:
        y: the metrics, a row each; () for the gap if every run has one, else the loss, and the first metric of each task.
        x: what they are drawn against; None for rounds and, beside them, uplink bytes.
        group: the keys whose values make a curve; None: runs that differ in seed only are one.
        facet: the keys of rows and columns of panels, at most two.
        heat: the keys of rows and columns of a heat map, in place of curves.
        timeline: whether to draw the one run round by round, in place of curves.
    """

    y: tuple[str, ...] = ()
    x: Axis | None = None
    group: tuple[str, ...] | None = None
    facet: tuple[str, ...] = ()
    heat: tuple[str, ...] = ()
    timeline: bool = False


def plot(folders: Sequence[str | Path], out: str | Path, view: View = View()) -> None:  # noqa: B008 - it cannot change
    """Draw the runs in these folders into one picture; the suffix of ``out`` gives its format (png, pdf, svg, ...).

    A curve is the mean over the runs that differ in seed only, in a band of one standard error. A strip below marks the rounds in
    which the Byzantine clients were a strict majority of the cohort. Claims of clients, if the server measures nothing, are marked
    as claimed: the median, in a band of the median distance from it.

    Raises:
        ConfigError: for a folder that holds no run or nothing to draw yet, or a picture that cannot be written.
    """
    if not Path(out).suffix:
        name = f"{out}.png"
        raise ConfigError(f"-o: cannot write {str(out)!r}: its suffix gives the picture's format, as in {name!r}.")
    figure = draw(folders, view)
    try:
        figure.savefig(out, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"-o: cannot write the picture {str(out)!r}: {error}") from error


def draw(folders: Sequence[str | Path], view: View = View()) -> "Figure":  # noqa: B008 - it cannot change
    """Return the picture of the runs in these folders, which a notebook shows; see `plot`.

    Raises:
        ConfigError: for a folder that holds no run or nothing to draw yet, or if matplotlib is not installed.
    """
    check_installed()
    return picture(histories(folders), view)


def check_installed(command: str = "plot") -> None:
    """Refuse a command that draws, if matplotlib is not there.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401 - slow to import, and only needed for pictures
    except ImportError as error:
        raise ConfigError(f"{command}: pictures need matplotlib ({error}): pip install 'byzdist[plot]'.") from None


def picture(runs: Sequence[History], view: View) -> "Figure":
    """Return the picture of runs that have been read; see `draw`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:  # for notebooks that have not imported pyplot, which would do this
            return png(self)

    with rc_context(SETTINGS):
        figure = Picture(figsize=(11, 4), layout="constrained")
        if view.timeline:
            _draw_timeline(figure, runs)
            return figure
        shown = _evaluated(runs)
        if view.heat:
            _draw_heat(figure, shown, view)
        elif view.facet:
            _draw_facets(figure, shown, view)
        else:
            _draw_rows(figure, shown, view)
    return figure


def png(figure: "Figure", dpi: int = 80) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _evaluated(runs: Sequence[History]) -> list[History]:
    """Return the runs that have an evaluation; a warning names the others."""
    without = [str(run.folder) for run in runs if not run.is_evaluated]
    if len(without) == len(runs):
        raise ConfigError(f"{without[0]}: this run has no evaluation yet; there is nothing to draw.")
    if without:
        log.warning("not drawn, because there is no evaluation yet: %s", ", ".join(without))
    return [run for run in runs if run.is_evaluated]


def better(runs: Sequence[History]) -> dict[str, Better]:
    """Return in which direction the metrics of the runs' tasks are better."""
    return {name: direction for run in runs for name, direction in run.metrics.items()}


def main_metrics(runs: Sequence[History]) -> list[str]:
    """Return the gap if every run has one, else the loss; and the first metric of each task, if some run has it."""
    first = [next(iter(run.metrics), None) for run in runs]
    own = dict.fromkeys(name for run, name in zip(runs, first, strict=True) if name and run.measured(name) is not None)
    return ["gap" if all(run.measured("gap") is not None for run in runs) else "loss", *own]


def _check_measured(runs: Sequence[History], metrics: Sequence[str]) -> None:
    for y in metrics:
        if all(run.measured(y) is None for run in runs):
            there = dict.fromkeys(
                key for run in runs for line in run.lines for key in (*line, *line.get("claimed", {}))
            )
            known = [key for key in there if any(_is_measured(run, key) for run in runs)]
            raise ConfigError(f"--y: no run has {y!r}; there are {', '.join(known)}.")


def _is_measured(run: History, key: str) -> bool:
    try:
        return run.measured(key) is not None
    except ConfigError:
        return False


def _draw_timeline(figure: "Figure", runs: Sequence[History]) -> None:
    if len(runs) != 1 or not runs[0].lines:
        what = f"{len(runs)} runs" if len(runs) != 1 else "a run without any round yet"
        raise ConfigError(f"--timeline: it shows one run, and {what} were given; name the folder of one run.")
    draw_timeline(figure, runs[0])


def _draw_heat(figure: "Figure", runs: Sequence[History], view: View) -> None:
    y = _one_metric(runs, view)
    rows, columns = (ordered(values(runs, key)) for key in view.heat)
    figure.set_size_inches(max(5.0, 3.0 + 1.3 * len(columns)), max(3.0, 1.6 + 0.6 * len(rows)))
    draw_heat(figure, runs, view.heat, y, better(runs))
    _note_mean(figure, runs, view.heat)


def _one_metric(runs: Sequence[History], view: View) -> str:
    """Return the metric of heat maps and facets: by default the first of the task's own, else the gap or the loss."""
    if view.y[1:]:
        raise ConfigError("--y: facets and heat maps show one metric; name one.")
    _check_measured(runs, view.y)
    return view.y[0] if view.y else main_metrics(runs)[-1]


def _others(runs: Sequence[History], keys: Sequence[str]) -> list[str]:
    """Return the keys in which runs differ besides these, and besides what is below these."""
    return [key for key in differing(runs) if not any(key == of or key.startswith(f"{of}.") for of in keys)]


def _note_mean(figure: "Figure", runs: Sequence[History], keys: Sequence[str]) -> None:
    """Say over which settings the picture takes means, if over more than seeds."""
    over = _others(runs, keys)
    if over:
        figure.suptitle(plain(f"means over {', '.join(over)} and seeds"), fontsize="small", x=0.01, ha="left")


def _draw_rows(figure: "Figure", runs: Sequence[History], view: View) -> None:
    """Draw a row for each metric, a column for each axis, and strips below."""
    _check_measured(runs, view.y)
    metrics = view.y or main_metrics(runs)
    columns: tuple[Axis, ...] = ("rounds", "bytes") if view.x is None else (view.x,)
    found = groups(runs, view.group)
    looks = {label: number for number, label in enumerate(found)}
    shared = strips(found, columns)
    heights = [3.4] * len(metrics) + ([0.3 * len(shared)] if shared else [])
    _resize(figure, 5.5 * len(columns), sum(heights) + 0.6, found)
    grid = figure.subplots(
        len(heights), len(columns), sharex="col", squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    directions = better(runs)
    for column, x in enumerate(columns):
        for row, y in enumerate(metrics):
            draw_panels([(grid[row, column], _curves(found, y, x))], looks, y, directions)
            grid[row, 0].set_ylabel(metric_label(y, directions))
        if shared:
            draw_strips(grid[-1, column], shared, looks, column, x)
        else:
            axis_below(grid[-1, column], x)
    legend(figure, list(grid[: len(metrics), 0]))
    if view.group is not None:
        _note_mean(figure, runs, view.group)


def _curves(found: dict[str, list[History]], y: str, x: Axis) -> list[Curve]:
    curves = (curve(label, runs, y, x) for label, runs in found.items())
    return [drawn for drawn in curves if drawn is not None]


def _draw_facets(figure: "Figure", runs: Sequence[History], view: View) -> None:
    """Draw a panel for each pair of values of the facets' keys, with the same axes."""
    y, x, keys = _one_metric(runs, view), view.x or "rounds", view.facet
    places = [values(runs, key) for key in keys] + [[""] * len(runs)] * (2 - len(keys))
    rows, columns = (ordered(place) for place in places)
    group = tuple(_others(runs, keys)) if view.group is None else view.group
    found = groups(runs, group)
    looks = {label: number for number, label in enumerate(found)}
    _resize(figure, 2.8 * len(columns) + 0.6, 2.2 * len(rows) + 0.6, found)
    grid = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    directions = better(runs)
    panels: list[tuple[Axes, list[Curve]]] = []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            here = [run for run, *place in zip(runs, *places, strict=True) if place == [row, column]]
            inside = {label: [run for run in part if run in here] for label, part in found.items()}
            panels.append((grid[i, j], _curves({k: v for k, v in inside.items() if v}, y, x)))
            if not here:
                grid[i, j].text(0.5, 0.5, "no run", transform=grid[i, j].transAxes, ha="center", va="center")
        grid[i, 0].set_ylabel(f"{plain(f'{short_key(keys[0], keys)}: {row}')}\n{metric_label(y, directions)}")
    draw_panels(panels, looks, y, directions)
    for j, column in enumerate(columns):
        axis_below(grid[-1, j], x)
        if column:
            grid[0, j].set_title(plain(f"{short_key(keys[1], keys)}: {column}"), fontsize="medium")
    legend(figure, list(grid.flat))
    _note_mean(figure, runs, (*keys, *group))


def _resize(figure: "Figure", width: float, height: float, found: dict[str, list[History]]) -> None:
    """Give a picture room for its panels and, beside them, the legend."""
    longest = max(len(plain(label)) for label in found)
    figure.set_size_inches(width + 0.8 + 0.075 * longest, max(height, 0.4 + 0.21 * len(found)))
