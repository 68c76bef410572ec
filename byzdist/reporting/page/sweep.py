"""The report on several runs."""

import csv
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from byzdist.errors import ConfigError
from byzdist.host.files import read_text
from byzdist.reporting.page.html import Cell, Html, element, section, table
from byzdist.reporting.page.one_run import all_settings, ending, repeat, seconds, versions
from byzdist.reporting.page.svg import inline
from byzdist.reporting.page.words import count, number, size
from byzdist.reporting.pictures.heat import last_value
from byzdist.reporting.pictures.history import History
from byzdist.reporting.pictures.settings import differing, ordered, values
from byzdist.reporting.plotting import View, main_metrics
from byzdist.words import short_key

_FIRST = ("aggregation.rule", "attack")  # of the keys that differ, those that make rows and columns if they can
_LARGEST = 1 << 26  # bytes of a sweep's index
_MAPS = 4
_PANELS = 30  # more facets are too small to see


def sweep_page(runs: Sequence[History], folder: Path) -> list[Html]:
    """Return the sections of the report on the runs in a folder."""
    keys = sorted(differing(runs), key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
    evaluated = [run for run in runs if run.is_evaluated]
    metrics = main_metrics(evaluated) if evaluated else []
    sections = [ending(runs), *_without_metrics(runs, folder), _differences(runs, keys)]
    if evaluated:
        sections += _pictures(evaluated, differing(evaluated), keys, metrics[-1])
    else:
        sections.append(section("Curves", element("p", "Nothing has been evaluated yet.")))
    sections.append(section("Runs", _runs(runs, keys, metrics), element("p", "A heading sorts the table.")))
    sections.append(section("Settings of the first run", all_settings(runs[0]), folded=True))
    return [*sections, repeat(runs), versions(runs)]


def _without_metrics(runs: Sequence[History], folder: Path) -> list[Html]:
    """Return the runs that a sweep's index names but that have left no metrics, because they wait or have failed.

    Raises:
        ConfigError: if the index is not what a sweep writes.
    """
    index = folder / "runs.csv"
    try:
        rows = list(csv.DictReader(read_text(index, _LARGEST).splitlines()))
        others = [row for row in rows if folder / row["folder"] not in {run.folder for run in runs}]
        told = [(row["folder"], row["status"], row["reason"] or "") for row in others]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ConfigError(f"{index}: this is not what a sweep writes: {error!r}.") from error
    return [section("Runs without metrics", table(("run", "status", "reason"), told))] if told else []


def _differences(runs: Sequence[History], keys: Sequence[str]) -> Html:
    rows = [(key, ", ".join(ordered(values(runs, key)))) for key in keys]
    seeds = ordered([str(run.settings.get("seed")) for run in runs])
    return section("What differs", table(("key", "values"), [*rows, ("seed", ", ".join(seeds))]))


def _pictures(runs: Sequence[History], there: Sequence[str], keys: Sequence[str], y: str) -> list[Html]:
    """Return the curves, in facets if there are any, and a heat map of the same two keys."""
    sides = facets({key: len(set(values(runs, key))) for key in keys if key in there})
    note = element("p", "Curves are means over seeds, in a band of one standard error.")
    if sides is None:
        return [section("Curves", inline(runs, View(x="rounds"), "curves of all runs"), note)]
    curves = inline(runs, View(y=(y,), facet=sides), f"{y} by {' and '.join(sides)}")
    return [section("Curves", curves, note), section(f"Last {y}", *_maps(runs, sides, y))]


def facets(sizes: Mapping[str, int]) -> tuple[str, str] | None:
    """Return the first two keys, given the number of values of each, that do not make too many panels; None if there are none."""
    return next(((one, two) for one, two in combinations(sizes, 2) if sizes[one] * sizes[two] <= _PANELS), None)


def _maps(runs: Sequence[History], sides: tuple[str, ...], y: str) -> list[Html]:
    """Return a heat map for each combination of the other keys that differ, or one of means over them if there are many."""
    others = [key for key in differing(runs) if key not in sides]
    what = f"last {y} by {' and '.join(sides)}"
    view = View(y=(y,), heat=sides)
    rows = zip(*(values(runs, key) for key in others), strict=True)
    of_each = [", ".join(f"{key}: {value}" for key, value in zip(others, row, strict=True)) for row in rows]
    if not 1 < len(set(of_each)) <= _MAPS:
        return [inline(runs, view, what)]
    maps = []
    for text in ordered(of_each):
        here = [run for run, its in zip(runs, of_each, strict=True) if its == text]
        maps += [element("h3", text), inline(here, view, f"{what}, {text}")]
    return maps


def _runs(runs: Sequence[History], keys: Sequence[str], metrics: Sequence[str]) -> Html:
    columns = [values(runs, key) for key in keys]
    head = [short_key(key, keys) for key in keys]
    rows: list[list[str | Cell]] = []
    for number_, run in enumerate(runs):
        settings = [column[number_] for column in columns]
        measured = [number(last_value(run, y)) for y in metrics]
        up = size(sum(line["bytes_up"] for line in run.lines))
        seed = str(run.settings.get("seed"))
        rows.append(
            [*settings, seed, run.status, *measured, count(len(run.lines)), up, number(seconds(run)), run.folder.name]
        )
    head += ["seed", "status", *(f"last {y}" for y in metrics), "rounds", "uplink", "seconds", "folder"]
    return table(head, rows, sortable=True)
