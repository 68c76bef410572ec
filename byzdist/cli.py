"""The command line. Heavy modules are imported by the command that needs them, so that a mistake is reported at once."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from byzdist import __version__, speech, supervisor
from byzdist.errors import ConfigError, RunError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="byzdist", description="Byzantine-robust distributed training.")
    parser.add_argument("--version", action="version", version=f"byzdist {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="train; starts one server and N worker processes, or is one of them under torchrun"
    )
    run.add_argument("config", metavar="CONFIG", help="a YAML file")
    run.add_argument("overrides", metavar="key=value", nargs="*", help="for example method.clip=none")
    run.add_argument(
        "--workers", type=_positive, metavar="N", help="worker processes on this machine (default: 4, or one a client)"
    )
    run.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/NAME-DATE-TIME)")
    run.add_argument("--resume", action="store_true", help="go on with the run in DIR from its last checkpoint")
    run.add_argument(
        "--max-restarts",
        type=_count,
        default=0,
        metavar="N",
        help="start all processes again, up to N times, when one fails; they go on from the last checkpoint (default: 0)",
    )
    run.set_defaults(action=_run)

    evaluate = commands.add_parser("evaluate", help="print loss and accuracy of a run's last model")
    evaluate.add_argument("run", metavar="DIR", type=Path, help="the run's folder")
    evaluate.add_argument("overrides", metavar="key=value", nargs="*", help="other data, for example data.path=FILE")
    evaluate.set_defaults(action=_evaluate)

    names = commands.add_parser("list", help="show every name that a configuration can use")
    names.set_defaults(action=_list)

    doctor = commands.add_parser("doctor", help="check what this host offers a run, and say what to change")
    doctor.set_defaults(action=_doctor)

    plot = commands.add_parser("plot", help="draw the metrics of runs into one picture")
    plot.add_argument("runs", metavar="DIR", nargs="+", type=Path)
    plot.add_argument("-o", "--output", metavar="FILE.png", type=Path, required=True)
    plot.set_defaults(action=_plot)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    supervisor.end_with_agent()
    if supervisor.is_wanted():
        return supervisor.supervise([sys.executable, "-m", "byzdist", *sys.argv[1:]])
    if "RANK" in os.environ:
        from byzdist.rank import run_rank

        return run_rank(arguments.config, arguments.overrides, arguments.out, arguments.resume)
    speech.say(f"reading {arguments.config}")  # a sign of life: the next import takes seconds
    from byzdist.launcher import launch

    return launch(
        arguments.config,
        arguments.overrides,
        arguments.workers,
        arguments.out,
        arguments.resume,
        arguments.max_restarts,
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from byzdist.evaluate import evaluate

    print(evaluate(arguments.run, arguments.overrides))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from byzdist.catalogue import catalogue

    print(catalogue())
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from byzdist.doctor import examine

    findings = examine()
    print("\n".join(map(str, findings)))
    return int(any(finding.level == "error" for finding in findings))


def _plot(arguments: argparse.Namespace) -> int:
    from byzdist.plotting import plot

    plot(arguments.runs, arguments.output)
    print(f"wrote {arguments.output}")
    return 0


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)
    # argparse takes overrides only where they follow CONFIG at once; they may come after options as well.
    if any(word.startswith("-") for word in rest) or (rest and "overrides" not in arguments):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 finished, 1 failed, 2 a mistake of the user's before anything was started."""
    arguments = _parse(words)
    try:
        code: int = arguments.action(arguments)
        return code
    except ConfigError as error:
        print(f"byzdist: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"byzdist: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
