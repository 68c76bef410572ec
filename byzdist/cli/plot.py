"""`byzdist plot`: the metrics of runs in one picture."""

import argparse
from pathlib import Path

HELP = "draw the metrics of runs into one picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs' folders and the picture's file."""
    parser.add_argument("runs", metavar="DIR", nargs="+", type=Path)
    parser.add_argument("-o", "--output", metavar="FILE.png", type=Path, required=True)


def run(arguments: argparse.Namespace) -> int:
    """Draw the picture."""
    from byzdist.reporting.plotting import plot

    plot(arguments.runs, arguments.output)
    print(f"wrote {arguments.output}")
    return 0
