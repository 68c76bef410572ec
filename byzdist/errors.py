"""The errors that reach a user."""

import os
import sysconfig
import traceback
from pathlib import Path

_LIBRARIES = tuple(
    f"{folder}{os.sep}"
    for folder in (Path(__file__).parent, *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")))
)


class ConfigError(ValueError):
    """A mistake in the configuration or on the command line; the message names the key, the value and the remedy."""


class UnknownKey(ConfigError):
    """A key that nothing reads.

    Attributes:
        where: the key's dotted path.
        known: the keys that exist in its place.
    """

    def __init__(self, where: str, known: list[str], hint: str) -> None:
        super().__init__(f"{where}: unknown key.{hint}")
        self.where, self.known = where, known


class RunError(RuntimeError):
    """A run that cannot go on; the message says why."""


def describe_error(error: BaseException) -> str:
    """Return an exception of a user's own code as text, with its place in that code: ``KeyError: 'x' (mine.py:12, in data)``."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    if not frames:
        return what
    last = (own or frames)[-1]
    return f"{what} ({last.filename}:{last.lineno}, in {last.name})"
