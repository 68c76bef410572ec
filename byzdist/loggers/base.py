"""The registry of loggers: where a run's metrics go besides its folder.

A logger is made once, in the server's process, when the run begins.

Args:
    folder: the run's.
    config: the run's configuration, complete, as config.yaml has it.

Returns:
    A function of (round, values): the round's number, and its numbers by name, such as loss, accuracy, bytes_up. Where it has a method
    ``close``, that is called with the run's summary at the end.

Raises:
    Exception: whatever it raises is logged once, and the run goes on without it.

Example:
    >>> from pathlib import Path
    >>> def printing(folder, config, *, every: int = 10):
    ...     def log(round_, values):
    ...         if round_ % every == 0:
    ...             print(config["name"], round_, values["loss"])
    ...     return log
    >>> printing(Path("runs/a"), {"name": "a"}, every=1)(3, {"loss": 0.5})
    a 3 0.5
"""

from collections.abc import Callable
from typing import Any, TypeVar

from byzdist.registry import Registry

LOGGERS: Registry[Callable[..., Any]] = Registry("logger", "folder", "config")
L = TypeVar("L", bound=Callable[..., Any])


def needs(module: str) -> Callable[[L], L]:
    """Return the decorator of a logger that needs a library, which is an extra of the same name as the logger."""

    def mark(logger: L) -> L:
        logger.needs = module  # type: ignore[attr-defined]
        return logger

    return mark
