"""`byzdist sweep`: the runs of a study, in one folder."""

import argparse
import os
from pathlib import Path

from byzdist.cli.run import positive
from byzdist.errors import ConfigError
from byzdist.host import speech
from byzdist.host.processes import set_up_libraries

HELP = "train the runs of a study: the product of lists of settings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sweep's file, its settings, its folder, and how to start."""
    parser.add_argument("config", metavar="FILE", help="a sweep {base, set, grid, zip, curves}, or a configuration")
    parser.add_argument(
        "overrides",
        metavar="key=values",
        nargs="*",
        default=[],
        help="for example 'attack=[alie, ipm]' seed=0..2 rounds=100",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", required=True, help="the sweep's folder; a sweep there goes on"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="how many runs of transport local train at a time (default: one a core)",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="worker processes of the runs on star and collective (default: 4, or one a client)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train the runs that have not ended yet."""
    if "RANK" in os.environ:
        raise ConfigError("RANK: a sweep starts its processes itself. Run it without torchrun, on one machine.")
    speech.say(f"reading {arguments.config}")  # a sign of life: the next import takes seconds
    set_up_libraries()
    from byzdist.sweeping.axes import read_sweep
    from byzdist.sweeping.conducting import conduct

    sweep = read_sweep(arguments.config, arguments.overrides)
    return conduct(sweep, arguments.out, arguments.jobs, arguments.workers)
