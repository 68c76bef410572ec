"""`byzdist run`: train, as the processes of one host, as one rank under torchrun, or alone in this process."""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from byzdist.errors import ConfigError
from byzdist.host import interrupt, speech, supervisor
from byzdist.host.processes import Program, set_up_libraries

if TYPE_CHECKING:
    from byzdist.runtime.command import RunCommand

HELP = "train; starts one server and N worker processes, or is one of them under torchrun"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration, what to change in it, and how to start."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or - for standard input")
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="for example method.clip=none")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="worker processes on this machine (default: 4, or one a client)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/NAME-DATE-TIME)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR from its last checkpoint")
    parser.add_argument(
        "--local",
        type=Path,
        metavar="FILE",
        help="a YAML file with keys of the data section for this rank alone, such as the path of its clients' private data",
    )
    parser.add_argument(
        "--max-restarts",
        type=_count,
        default=0,
        metavar="N",
        help="start all processes again, up to N times, when one fails; they go on from the last checkpoint (default: 0)",
    )


def positive(text: str) -> int:
    """Return a whole number of at least 1, as an argument's type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Start the processes of a run, be one of them, or do everything in this process."""
    supervisor.end_with_agent()
    if supervisor.is_wanted():
        return supervisor.supervise(arguments.again)
    if "RANK" in os.environ:
        return _run_rank(arguments)
    speech.say(f"reading {arguments.config}")  # a sign of life: the next import takes seconds
    set_up_libraries()
    import byzdist.config.checks
    import byzdist.runtime.rank  # noqa: F401 - imported once for all ranks, which are forks of this process
    from byzdist.reporting.logs import leave_advice_to_the_server
    from byzdist.runtime.launcher import launch

    leave_advice_to_the_server()
    if _command(arguments).load().transport.name == "local":
        return _run_alone(arguments)
    return launch(_command(arguments), arguments.workers, arguments.max_restarts, _forked if _can_fork() else None)


def _command(arguments: argparse.Namespace) -> "RunCommand":
    from byzdist.runtime.command import RunCommand

    return RunCommand(arguments.config, arguments.overrides, arguments.out, arguments.resume, arguments.local)


def _can_fork() -> bool:
    """Return whether the ranks may be forks of this process.

    They may not if a user's module has started threads, or if this process was given the run's secret in its
    environment: a fork shares that environment, and a worker must have only its own key.
    """
    from byzdist.transport.keys import VARIABLES

    return not interrupt.other_threads() and not any(name in os.environ for name in VARIABLES)


def _forked(command: "RunCommand") -> Program:
    """Return what runs a command in a fork of this process."""
    from byzdist.cli.main import main

    words = command.words()
    return partial(main, words, again=partial(main, words))


def _run_alone(arguments: argparse.Namespace) -> int:
    from byzdist.runtime.alone import run_alone

    if arguments.workers not in (None, 1):
        raise ConfigError(f"--workers: {arguments.workers} processes, but with transport.name=local there is one.")
    return run_alone(_command(arguments)).code


def _run_rank(arguments: argparse.Namespace) -> int:
    from byzdist.runtime.rank import run_reporting

    return run_reporting(_command(arguments))
