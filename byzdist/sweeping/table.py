"""A table over runs: means over seeds, the best of a grid, the worst over attacks; what is missing is counted in its place."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from byzdist.errors import ConfigError
from byzdist.problem.task import Better
from byzdist.sweeping.measured import Found, Measured, Metric
from byzdist.words import did_you_mean

Measure = Callable[[Found, Metric], Measured]
Place = tuple[str, ...]  # the values of some keys


@dataclass(frozen=True)
class Request:
    """What a table shows.

    Attributes:
        columns: None for a single column, of the value.
        value: what stands in its cells.
        best: keys of a grid, whose best place by ``rule`` is taken.
        rule: the metric by which it is chosen.
        worst: the key over which the worst is taken.
        over: the keys over which means are taken.
    """

    rows: str
    columns: str | None
    value: Metric
    best: tuple[str, ...] = ()
    rule: Metric | None = None
    worst: str | None = None
    over: tuple[str, ...] = ("seed",)

    @property
    def outer(self) -> list[str]:
        """The keys of rows and columns."""
        return [key for key in (self.rows, self.columns) if key is not None]


@dataclass(frozen=True)
class Cell:
    """A mean over runs.

    Attributes:
        values: of the runs that have finished.
        lost: how many of the others have which status.
        chosen: what it is the best or the worst of, as ``key=value``.
    """

    values: tuple[float, ...] = ()
    lost: Mapping[str, int] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """The mean; None if no run has finished."""
        return math.fsum(self.values) / len(self.values) if self.values else None

    @property
    def error(self) -> float | None:
        """The standard error of the mean, s / sqrt(n) with s from n - 1 degrees of freedom; None for fewer than two runs."""
        if (mean := self.mean) is None or len(self.values) < 2:
            return None
        n = len(self.values)
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values) / (n - 1) / n)


@dataclass(frozen=True)
class Table:
    """Cells by row and column, and what they are, in words."""

    request: Request
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    caption: str


def tabulate(runs: Sequence[Found], request: Request, measure: Measure = Found.measure) -> Table:
    """Return the table of some runs.

    The best of a grid is chosen first, for each value of the ``worst`` key by itself; a place of the grid with a run that is missing,
    has failed or has diverged counts only if no place is complete. A cell with a run that has diverged is the worst.

    Raises:
        ConfigError: for a key that no run has, runs that differ in a key which the request does not name, or a metric of unknown
            direction.
    """
    _check_keys(runs, request)
    outer = request.outer
    inner = [*outer, *([request.worst] if request.worst else [])]
    is_high = {metric: _is_high(runs, metric) for metric in _judged(request)}
    means = _means(runs, [*inner, *request.best], request.value, measure)
    if request.best:
        rule = request.rule or request.value
        judged = means if rule == request.value else _means(runs, [*inner, *request.best], rule, measure)
        means = _best(means, judged, len(inner), request.best, is_high[rule])
    if request.worst:
        means = _worst(means, len(outer), request.worst, is_high[request.value])
    only = str(request.value)  # the column, where no key makes columns
    cells = {(place[0], place[1] if request.columns else only): cell for place, cell in means.items()}
    rows, columns = (tuple(dict.fromkeys(place[i] for place in cells)) for i in (0, 1))
    return Table(request, rows, columns, cells, _caption(request, is_high))


def _check_keys(runs: Sequence[Found], request: Request) -> None:
    known = list(dict.fromkeys(key for run in runs for key in run.settings))
    named = [*request.outer, *request.best, *([request.worst] if request.worst else [])]
    for key in named:
        if key not in known:
            raise ConfigError(f"{key}: the runs have no such setting.{did_you_mean(key, known)}")
        if named.count(key) > 1 or key in request.over:
            raise ConfigError(
                f"{key}: it has two places in the table; give it one of --rows, --columns, --best, --worst, --over."
            )
    for key in known:
        if key not in named and key not in request.over and len({run.settings.get(key) for run in runs}) > 1:
            raise ConfigError(
                f"{key}: the runs differ in it too. Name it with --rows, --columns, --best, --worst or --over, or choose one of its "
                f"values with --where {key}=VALUE."
            )


def _judged(request: Request) -> list[Metric]:
    """Return the metrics whose direction counts."""
    judged = [request.rule or request.value] if request.best else []
    return judged + ([request.value] if request.worst else [])


def _is_high(runs: Iterable[Found], metric: Metric) -> bool:
    directions: list[Better] = [better for run in runs if (better := run.better(metric.name)) is not None]
    if not directions:
        raise ConfigError(
            f"--value: no run says whether {metric.name!r} is better high or low; best and worst need to know."
        )
    return directions[0] == "higher"


def _means(runs: Sequence[Found], keys: Sequence[str], metric: Metric, measure: Measure) -> dict[Place, Cell]:
    measured: dict[Place, list[Measured]] = {}
    for run in runs:
        measured.setdefault(tuple(run.settings.get(key, "not set") for key in keys), []).append(measure(run, metric))
    return {place: _cell(found) for place, found in measured.items()}


def _cell(found: Sequence[Measured]) -> Cell:
    lost = [one.status for one in found if one.value is None]
    values = tuple(one.value for one in found if one.value is not None)
    return Cell(values, {status: lost.count(status) for status in sorted(set(lost))})


def _best(
    means: Mapping[Place, Cell], judged: Mapping[Place, Cell], depth: int, keys: Sequence[str], is_high: bool
) -> dict[Place, Cell]:
    def merit(place: Place) -> tuple[bool, bool, float]:
        mean = judged[place].mean
        return not judged[place].lost, mean is not None, 0.0 if mean is None else mean if is_high else -mean

    taken: dict[Place, Cell] = {}
    for place in dict.fromkeys(place[:depth] for place in means):
        best = max((there for there in means if there[:depth] == place), key=merit)
        chosen = tuple(f"{key}={value}" for key, value in zip(keys, best[depth:], strict=True))
        taken[place] = Cell(means[best].values, means[best].lost, chosen)
    return taken


def _worst(means: Mapping[Place, Cell], depth: int, key: str, is_high: bool) -> dict[Place, Cell]:
    def harm(place: Place) -> tuple[bool, float]:
        mean = means[place].mean
        return "diverged" in means[place].lost, -math.inf if mean is None else -mean if is_high else mean

    taken: dict[Place, Cell] = {}
    for place in dict.fromkeys(place[:depth] for place in means):
        group = [there for there in means if there[:depth] == place]
        worst = max(group, key=harm)
        lost: dict[str, int] = {}  # of all: a run that is missing might have been the worst
        for there in group:
            for status, count in means[there].lost.items():
                lost[status] = lost.get(status, 0) + count
        taken[place] = Cell(means[worst].values, lost, (f"{key}={worst[depth]}", *means[worst].chosen))
    return taken


def _caption(request: Request, is_high: Mapping[Metric, bool]) -> str:
    over = f" over {', '.join(request.over)}" if request.over else ""
    parts = [f"{request.value}{': mean ± standard error' if over else ''}{over}"]
    if request.best:
        rule = request.rule or request.value
        mean = f"{'highest' if is_high[rule] else 'lowest'} {'mean of ' if over else ''}{rule}{over}"
        parts.append(f"best of {', '.join(request.best)}, chosen by the {mean}")
    if request.worst:
        parts.append(f"worst over {request.worst}, the {'lowest' if is_high[request.value] else 'highest'}")
    return "; ".join(parts) + "."
