"""Log lines: ``[server r12] INFO text``, the rank and its round before the text; BYZDIST_LOG sets the level."""

import logging
import os
import sys

from byzdist.errors import ConfigError

VARIABLE = "BYZDIST_LOG"
ADVISERS = ("byzdist.checks", "byzdist.registry")  # the loggers of what there is to say of a configuration that works
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class _Place(logging.Filter):
    """Knows where this process is."""

    who = "byzdist"
    round: int | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        record.place = self.who if self.round is None else f"{self.who} r{self.round}"
        return True


_place = _Place()


def configure(rank: int) -> None:
    """Send this process's log to standard error, at the level that the environment asks for (WARNING).

    Raises:
        ConfigError: if there is no such level.
    """
    level = os.environ.get(VARIABLE, "WARNING").upper()
    if level not in _LEVELS:
        raise ConfigError(f"{VARIABLE}: no level {level!r}; use one of {', '.join(_LEVELS)}.")
    _place.who, _place.round = f"w{rank}" if rank else "server", None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("[%(place)s] %(levelname)s %(message)s"))
    handler.addFilter(_place)
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("byzdist").setLevel(level)
    if rank:
        leave_advice_to_the_server()


def leave_advice_to_the_server() -> None:
    """Keep to oneself what there is to say of a configuration that works: every process of a run reads it."""
    for adviser in ADVISERS:
        logging.getLogger(adviser).setLevel(logging.ERROR)


def at_round(round_: int) -> None:
    """Say in which round this process is from now on."""
    _place.round = round_
