"""`byzdist table`: what the runs of a study have measured, a number a cell."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from byzdist.errors import ConfigError

if TYPE_CHECKING:
    from byzdist.sweeping.table import Request

HELP = "print a table over the runs of a sweep, or over any runs"
_FORMATS = ("text", "csv", "json", "latex", "markdown")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folders, and what the table shows."""
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="the folders of sweeps, or of runs")
    parser.add_argument("--rows", metavar="KEY", required=True, help="a setting, such as aggregation.rule")
    parser.add_argument("--columns", metavar="KEY", help="another, such as attack (default: one column)")
    parser.add_argument("--value", metavar="METRIC", required=True, help="a name of summary.json or metrics.jsonl")
    parser.add_argument(
        "--at",
        metavar="PLACE",
        default="last",
        help="last, best, round=N, gradients=N, bytes=N or seconds=N (default: last)",
    )
    parser.add_argument(
        "--best",
        metavar="KEY[=METRIC[@PLACE]]",
        action="append",
        default=[],
        help="show the best value of KEY alone, by the mean of METRIC (default: the value itself)",
    )
    parser.add_argument("--worst", metavar="KEY", help="show the worst over KEY alone")
    parser.add_argument("--over", metavar="KEY", action="append", help="take means over KEY (default: seed)")
    parser.add_argument(
        "--where", metavar="KEY=VALUE", action="append", default=[], help="use only the runs with this setting"
    )
    parser.add_argument("--format", choices=_FORMATS, default="text", help="(default: text)")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from byzdist.sweeping.formats import FORMATS
    from byzdist.sweeping.measured import find_runs
    from byzdist.sweeping.table import tabulate

    request, runs = _request(arguments), find_runs(arguments.folders)
    for word in arguments.where:
        key, _, value = word.partition("=")
        runs = [run for run in runs if run.settings.get(key) == value]
        if not runs:
            raise ConfigError(f"--where: no run has {word}.")
    print(FORMATS[arguments.format](tabulate(runs, request)))
    return 0


def _request(arguments: argparse.Namespace) -> "Request":
    from byzdist.sweeping.measured import Metric
    from byzdist.sweeping.table import Request

    value = Metric.of(arguments.value, arguments.at)
    keys, rules = [], set()
    for word in arguments.best:
        key, _, rule = word.partition("=")
        keys.append(key)
        rules |= {Metric.of(rule)} if rule else set()
    if len(rules) > 1:
        raise ConfigError(
            f"--best: two rules, {' and '.join(sorted(map(str, rules)))}; the keys of one grid share one."
        )
    named = (arguments.rows, arguments.columns, arguments.worst, *keys)
    over = tuple(arguments.over or ("seed",) * ("seed" not in named))
    return Request(
        arguments.rows, arguments.columns, value, tuple(keys), next(iter(rules), None), arguments.worst, over
    )
