"""The interface and the registry of loggers, which send a run's metrics elsewhere, besides its folder.

A logger is made once, in the server's process, when the run starts.

Args:
    folder: the run's folder.
    config: the run's complete configuration, as in config.yaml.

Returns:
    A function of (round, values): the round's number, and its numbers by name, such as loss, accuracy, bytes_up. If it has a method
    ``close``, that is called with the run's summary at the end.

Raises:
    Exception: any exception is logged once, and the run continues without this logger.

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
    """Return the decorator for a logger that needs a library; the extra that installs it has the logger's name."""

    def mark(logger: L) -> L:
        logger.needs = module  # type: ignore[attr-defined]
        return logger

    return mark
