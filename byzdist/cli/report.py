"""`byzdist report`: a run or a sweep as one page of HTML."""

import argparse
from pathlib import Path

HELP = "write one page of HTML on a run or a sweep"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder and the page's file."""
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="the folder of a run, or one with runs below it, such as a sweep's"
    )
    parser.add_argument("-o", "--output", metavar="FILE.html", type=Path, help="the page (default: DIR/report.html)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page."""
    from byzdist.reporting.page.report import write_report

    print(f"wrote {write_report(arguments.folder, arguments.output)}")
    return 0
