"""The command line: the parser, and the call of the command.

Every other module here is a command of its name: it has ``HELP``, ``add_arguments(parser)`` and ``run(arguments)``, which returns the
exit code. ``run`` imports what takes long to import, so that a mistake is reported at once.
"""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from byzdist import __version__, cli
from byzdist.config.synonyms import COMMANDS
from byzdist.errors import ConfigError, RunError
from byzdist.host import supervisor
from byzdist.host.processes import Program
from byzdist.words import closest, squeeze

_FIRST = "new check plan run sweep table keys evaluate list doctor plot report".split()
"""The first commands in the help; others follow by name."""


class Parser(argparse.ArgumentParser):
    """A parser that accepts options only in full, because an abbreviation may mean something else in a later version.

    Attributes:
        options: the names of its options.
    """

    def __init__(self, **keywords: Any) -> None:
        self.options: list[str] = []
        super().__init__(allow_abbrev=False, **keywords)

    def add_argument(self, *names: Any, **keywords: Any) -> argparse.Action:
        """Add an argument, as argparse does, and remember an option's names."""
        self.options += [name for name in names if name.startswith("-")]
        return super().add_argument(*names, **keywords)


def _command_hint(word: str, commands: list[str]) -> str:
    """Return the hint for a word that stands in place of a command."""
    if Path(word).suffix in (".yaml", ".yml"):
        return f"{word!r} is not a command. Did you mean: byzdist run {word}?"
    near = closest(word, [*commands, *COMMANDS])
    meant = COMMANDS.get(squeeze(word)) or COMMANDS.get(near or "", near)
    hint = f"Did you mean {meant!r}?" if meant else f"Commands: {', '.join(commands)}."
    return f"{word!r} is not a command. {hint}"


def _option_hint(word: str, options: list[str]) -> str:
    """Return the hint for an unknown option: one that is spelled like it, or the key that replaces it."""
    from byzdist.config.settings import nearest_key

    name, _, value = word.lstrip("-").partition("=")
    begun = next((option for option in options if name and option.startswith(f"--{name}")), None)
    near = begun or closest(name, options, 0.8) or nearest_key(name) or closest(name, options)
    opening = f"{word.partition('=')[0]}: there is no such option."
    if near is None:
        return f"{opening} Options: {', '.join(option for option in options if option.startswith('--'))}."
    if near.startswith("-"):
        return f"{opening} Did you mean {near}?"
    return f"{opening} {near} is a key of the configuration: write {near}={value or 'VALUE'}."


def _parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the command line, and each command's parser."""
    parser = Parser(prog="byzdist", description="Byzantine-robust distributed training.")
    parser.add_argument("--version", action="version", version=f"byzdist {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    found = sorted(module.name for module in pkgutil.iter_modules(cli.__path__) if module.name != "main")
    for name in sorted(found, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST)):
        module = importlib.import_module(f"{cli.__name__}.{name}")
        command = commands.add_parser(name, help=module.HELP)
        module.add_arguments(command)
        command.set_defaults(action=module.run)
    return parser, dict(commands.choices)


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser, commands = _parser()
    words = sys.argv[1:] if words is None else words
    if words and not words[0].startswith("-") and words[0] not in commands:
        parser.error(_command_hint(words[0], list(commands)))
    arguments, rest = parser.parse_known_args(words)
    # argparse accepts overrides only right after CONFIG; they may come after options as well.
    parser = commands[arguments.command]
    unknown = next((word for word in rest if word.startswith("-")), None)
    if unknown is not None:
        parser.error(_option_hint(unknown, parser.options))
    if rest and "overrides" not in arguments:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    if "=" in getattr(arguments, "config", "") and not Path(arguments.config).exists():
        parser.error(f"CONFIG, a YAML file, comes first, before {arguments.config!r}")
    return arguments


def main(words: Sequence[str] | None = None, again: Program | None = None) -> int:
    """Run a command; return its exit code: 0 finished, 1 failed, 2 a user's mistake, and nothing was started.

    Args:
        words: the command line (default: this process's).
        again: what runs the same command in a new process (default: a new interpreter).
    """
    arguments = _parse(words)
    arguments.again = again or supervisor.own_command(sys.argv[1:])
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
