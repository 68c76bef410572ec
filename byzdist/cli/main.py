"""The command line. Heavy modules are imported by the command that needs them, so that a mistake is reported at once."""

import argparse
import os
import shlex
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from byzdist import __version__
from byzdist.cli.commands import Parser, command_hint, option_hint
from byzdist.errors import ConfigError, RunError
from byzdist.host import interrupt, speech, supervisor
from byzdist.host.processes import Program

if TYPE_CHECKING:
    from byzdist.runtime.command import RunCommand


def _parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the command line, and that of each command."""
    parser = Parser(prog="byzdist", description="Byzantine-robust distributed training.")
    parser.add_argument("--version", action="version", version=f"byzdist {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    new = commands.add_parser("new", help="write a configuration and a module of your own to begin with")
    new.add_argument("folder", metavar="DIR", type=Path, help="a folder that does not hold them yet")
    new.set_defaults(action=_new)

    check = commands.add_parser(
        "check", help="check a configuration as run does, and print it with what its defaults became"
    )
    check.add_argument("config", metavar="CONFIG", help="a YAML file")
    check.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="for example method.clip=none")
    check.set_defaults(action=_check)

    run = commands.add_parser(
        "run", help="train; starts one server and N worker processes, or is one of them under torchrun"
    )
    run.add_argument("config", metavar="CONFIG", help="a YAML file, or - for standard input")
    run.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="for example method.clip=none")
    run.add_argument(
        "--workers", type=_positive, metavar="N", help="worker processes on this machine (default: 4, or one a client)"
    )
    run.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/NAME-DATE-TIME)")
    run.add_argument("--resume", action="store_true", help="go on with the run in DIR from its last checkpoint")
    run.add_argument(
        "--local",
        type=Path,
        metavar="FILE",
        help="a YAML file with keys of the data section for this rank alone, such as the path of its clients' private data",
    )
    run.add_argument(
        "--max-restarts",
        type=_count,
        default=0,
        metavar="N",
        help="start all processes again, up to N times, when one fails; they go on from the last checkpoint (default: 0)",
    )
    run.set_defaults(action=_run)

    keys = commands.add_parser("keys", help="make the secret of a run on several hosts, and each worker's key")
    keys.add_argument("--workers", type=_positive, metavar="N", required=True, help="how many workers the run has")
    keys.add_argument("--out", type=Path, metavar="DIR", default=Path("keys"), help="where to (default: keys)")
    keys.set_defaults(action=_keys)

    evaluate = commands.add_parser("evaluate", help="print loss and metrics of a run's last model")
    evaluate.add_argument("run", metavar="DIR", type=Path, help="the run's folder")
    evaluate.add_argument(
        "overrides", metavar="key=value", nargs="*", default=[], help="other data, for example data.path=FILE"
    )
    evaluate.add_argument(
        "--trust", action="store_true", help="import code that the run's own config.yaml names as module:Name"
    )
    evaluate.set_defaults(action=_evaluate)

    names = commands.add_parser("list", help="show what a configuration can name and set")
    names.add_argument(
        "kind", metavar="KIND", nargs="?", help="a kind such as rule or attack, or a section such as transport"
    )
    names.add_argument("name", metavar="NAME", nargs="?", help="one of that kind, with its parameters")
    names.add_argument("--json", action="store_true", help="print it for a program to read")
    names.set_defaults(action=_list)

    doctor = commands.add_parser("doctor", help="check what this host offers a run, and say what to change")
    doctor.set_defaults(action=_doctor)

    plot = commands.add_parser("plot", help="draw the metrics of runs into one picture")
    plot.add_argument("runs", metavar="DIR", nargs="+", type=Path)
    plot.add_argument("-o", "--output", metavar="FILE.png", type=Path, required=True)
    plot.set_defaults(action=_plot)
    return parser, dict(commands.choices)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    supervisor.end_with_agent()
    if supervisor.is_wanted():
        return supervisor.supervise(arguments.again)
    if "RANK" in os.environ:
        return _run_rank(arguments)
    speech.say(f"reading {arguments.config}")  # a sign of life: the next import takes seconds
    # What libraries read when they are imported: see `byzdist.runtime.job`, which sets it for each rank.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import byzdist.config.checks
    import byzdist.runtime.rank  # noqa: F401 - once for all the ranks, which are forks of this process
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

    They may not where a user's module has started threads, nor where this process was given the run's secret: a fork's
    environment, as the system shows it, is this process's, and a worker is to have its own key alone.
    """
    from byzdist.transport.keys import VARIABLES

    threads = {thread.name for thread in threading.enumerate()} - {threading.main_thread().name, interrupt.THREAD}
    return not threads and not any(name in os.environ for name in VARIABLES)


def _forked(words: Sequence[str]) -> Program:
    """Return what runs a command in a fork of this process."""
    return partial(main, words, again=partial(main, words))


def _run_alone(arguments: argparse.Namespace) -> int:
    from byzdist.runtime.alone import run_alone

    if arguments.workers not in (None, 1):
        raise ConfigError(f"--workers: {arguments.workers} processes, but with transport.name=local there is one.")
    return run_alone(_command(arguments))


def _run_rank(arguments: argparse.Namespace) -> int:
    try:
        from byzdist.runtime.rank import run_rank

        return run_rank(_command(arguments))
    except (ConfigError, RunError) as error:
        if supervisor.report_failure(str(error)):
            return supervisor.MISTAKE if isinstance(error, ConfigError) else 1
        raise
    except Exception as error:
        supervisor.report_failure(f"{type(error).__name__}: {error}")
        raise


def _keys(arguments: argparse.Namespace) -> int:
    from byzdist.transport.keys import write_keys

    write_keys(arguments.out, arguments.workers)
    print(
        f"{arguments.out}/secret is for the server (BYZDIST_SECRET_FILE), {arguments.out}/workers/worker-R.key for worker R "
        "alone (BYZDIST_KEY_FILE)."
    )
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from byzdist.cli.evaluate import evaluate

    print(evaluate(arguments.run, arguments.overrides, trust=arguments.trust))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from byzdist.cli.catalogue import as_json, catalogue

    show = as_json if arguments.json else catalogue
    print(show(arguments.kind, arguments.name))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    import logging

    from byzdist.cli.rehearsal import rehearse

    logging.basicConfig(format="byzdist: warning: %(message)s")
    print(rehearse(arguments.config, arguments.overrides))
    return 0


def _new(arguments: argparse.Namespace) -> int:
    from byzdist.cli.starter import write

    written = write(arguments.folder)
    print(f"wrote {', '.join(map(str, written))}")
    print(f"next: cd {shlex.quote(str(arguments.folder))} && byzdist run config.yaml")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from byzdist.cli.doctor import examine

    findings = examine()
    print("\n".join(map(str, findings)))
    return int(any(finding.level == "error" for finding in findings))


def _plot(arguments: argparse.Namespace) -> int:
    from byzdist.reporting.plotting import plot

    plot(arguments.runs, arguments.output)
    print(f"wrote {arguments.output}")
    return 0


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser, commands = _parser()
    words = sys.argv[1:] if words is None else words
    if words and not words[0].startswith("-") and words[0] not in commands:
        parser.error(command_hint(words[0], list(commands)))
    arguments, rest = parser.parse_known_args(words)
    # argparse takes overrides only where they follow CONFIG at once; they may come after options as well.
    parser = commands[arguments.command]
    unknown = next((word for word in rest if word.startswith("-")), None)
    if unknown is not None:
        parser.error(option_hint(unknown, parser.options))
    if rest and "overrides" not in arguments:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    if "=" in getattr(arguments, "config", "") and not Path(arguments.config).exists():
        parser.error(f"CONFIG, a YAML file, comes first, before {arguments.config!r}")
    return arguments


def main(words: Sequence[str] | None = None, again: Program | None = None) -> int:
    """Run a command; return its exit code: 0 finished, 1 failed, 2 a mistake of the user's before anything was started.

    Args:
        words: the command line (default: this process's).
        again: what runs the same command in a new process (default: a new interpreter).
    """
    arguments = _parse(words)
    arguments.again = again or supervisor.itself(sys.argv[1:])
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
    except KeyboardInterrupt:
        print("byzdist: interrupted.", file=sys.stderr)
        return 1
