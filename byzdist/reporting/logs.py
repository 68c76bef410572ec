"""Log lines: ``[server r12] INFO text``, with the process and its round before the text; BYZDIST_LOG sets the level.

They go to standard error; the server's also go to log.txt in the run's folder.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from byzdist.errors import ConfigError

VARIABLE = "BYZDIST_LOG"
ADVISERS = ("byzdist.config.checks", "byzdist.config.advice", "byzdist.runtime.advice", "byzdist.registry")
"""The loggers of advice on a configuration that works."""
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class _Place(logging.Filter):
    """Adds to each message the process that it comes from, and the round of that process."""

    who = "byzdist"
    round: int | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        record.place = self.who if self.round is None else f"{self.who} r{self.round}"
        return True


_place = _Place()


def configure(rank: int) -> None:
    """Send this process's log to standard error, at the level that the environment asks for (WARNING).

    Raises:
        ConfigError: for an unknown level.
    """
    level = os.environ.get(VARIABLE, "WARNING").upper()
    if level not in _LEVELS:
        raise ConfigError(f"{VARIABLE}: no level {level!r}; use one of {', '.join(_LEVELS)}.")
    _place.who, _place.round = f"w{rank}" if rank else "server", None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("[%(place)s] %(levelname)s %(message)s"))
    handler.addFilter(_place)
    logging.getLogger().handlers[:] = [handler]  # the others stay open, because `given_back` may restore them
    logging.raiseExceptions = False  # no traceback if a log cannot be written
    logging.getLogger("byzdist").setLevel(level)
    _set_advice(logging.ERROR if rank else logging.NOTSET)


def leave_advice_to_the_server() -> None:
    """Give no advice on a configuration that works: every process of a run reads it, and only the server gives advice."""
    _set_advice(logging.ERROR)


def _set_advice(level: int) -> None:
    for name in ADVISERS:
        logging.getLogger(name).setLevel(level)


@contextmanager
def given_back() -> Iterator[None]:
    """Restore loggers and handlers afterwards, for a process that continues after a run."""
    root, names = logging.getLogger(), ("byzdist", *ADVISERS)
    handlers, raises, place = root.handlers[:], logging.raiseExceptions, (_place.who, _place.round)
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        logging.raiseExceptions, (_place.who, _place.round) = raises, place
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def without_advice() -> Iterator[None]:
    """Give no advice on a configuration that works, and then as before."""
    with given_back():
        leave_advice_to_the_server()
        yield


def at_round(round_: int) -> None:
    """Set the round that this process names in its messages."""
    _place.round = round_


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Append what this process logs to log.txt in a folder as well, because perhaps nobody sees standard error."""
    try:
        handler = logging.FileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
    except OSError:
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s [%(place)s] %(levelname)s %(message)s"))
    handler.addFilter(_place)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
