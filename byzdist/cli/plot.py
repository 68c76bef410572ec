"""`byzdist plot`: the metrics of runs in one picture."""

import argparse
from pathlib import Path

HELP = "draw the metrics of runs into one picture"
_AXES = ("rounds", "gradients", "bytes", "seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs' folders, the picture's file, and what the picture shows."""
    parser.add_argument(
        "runs",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="the folder of a run, or one with runs below it, such as a sweep's",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help="a picture: .png, .svg or .pdf"
    )
    parser.add_argument(
        "--y",
        metavar="METRIC[,METRIC]",
        type=_words,
        default=(),
        help="the metrics (default: gap or loss, and the task's first metric)",
    )
    parser.add_argument(
        "--x", choices=_AXES, help="what they are drawn against (default: rounds and uplink bytes, side by side)"
    )
    parser.add_argument(
        "--group",
        metavar="KEY[,KEY]",
        type=_words,
        help="the settings that make a curve (default: runs that differ in seed only are one)",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--facet",
        metavar="ROWS[,COLUMNS]",
        type=_one_or_two,
        default=(),
        help="a panel for each value of these settings",
    )
    kind.add_argument(
        "--heat", metavar="ROWS,COLUMNS", type=_two, default=(), help="a map of the last value by two settings"
    )
    kind.add_argument("--timeline", action="store_true", help="one run round by round")


def _words(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names with commas between them")
    return words


def _one_or_two(text: str) -> tuple[str, ...]:
    if len(words := _words(text)) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} has {len(words)} keys; give one or two")
    return words


def _two(text: str) -> tuple[str, ...]:
    if len(words := _words(text)) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not two keys, such as aggregation.rule,attack")
    return words


def run(arguments: argparse.Namespace) -> int:
    """Draw the picture."""
    from byzdist.reporting.plotting import View, plot

    view = View(arguments.y, arguments.x, arguments.group, arguments.facet, arguments.heat, arguments.timeline)
    plot(arguments.runs, arguments.output, view)
    print(f"wrote {arguments.output}")
    return 0
