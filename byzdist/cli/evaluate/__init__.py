"""`byzdist evaluate`: how good a run's last model is."""

import argparse
from pathlib import Path

HELP = "print loss and metrics of a run's last model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run's folder, other data, and whether its code is trusted."""
    parser.add_argument("run", metavar="DIR", type=Path, help="the run's folder")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", default=[], help="other data, for example data.path=FILE"
    )
    parser.add_argument(
        "--trust", action="store_true", help="import code that the run's own config.yaml names as module:Name"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    from byzdist.cli.evaluate.report import evaluate

    print(evaluate(arguments.run, arguments.overrides, trust=arguments.trust))
    return 0
