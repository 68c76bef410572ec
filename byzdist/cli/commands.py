"""The parser of the command line, and what it says of a word that it does not know."""

import argparse
from pathlib import Path
from typing import Any

from byzdist.config.synonyms import COMMANDS
from byzdist.words import closest, squeeze


class Parser(argparse.ArgumentParser):
    """A parser that takes options in full only: one that guesses takes ``--max`` for what a later version means by it.

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


def command_hint(word: str, commands: list[str]) -> str:
    """Return what to say of a word that stands where a command should."""
    if Path(word).suffix in (".yaml", ".yml"):
        return f"{word!r} is not a command. Did you mean: byzdist run {word}?"
    near = closest(word, [*commands, *COMMANDS])
    meant = COMMANDS.get(squeeze(word)) or COMMANDS.get(near or "", near)
    hint = f"Did you mean {meant!r}?" if meant else f"Commands: {', '.join(commands)}."
    return f"{word!r} is not a command. {hint}"


def option_hint(word: str, options: list[str]) -> str:
    """Return what to say of an option that there is not: one that is spelled like it, or the key that takes its place."""
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
