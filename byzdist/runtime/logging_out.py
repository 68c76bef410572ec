"""Passes each round's numbers to the run's loggers, none of which can end the run."""

import logging
from pathlib import Path
from typing import Any

from byzdist.config.schema import Config
from byzdist.errors import ConfigError
from byzdist.host.optional import is_installed
from byzdist.loggers import LOGGERS
from byzdist.registry import Spec
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.record import RoundRecord

log = logging.getLogger(__name__)


def wanted(config: Config) -> list[Spec]:
    """Return the loggers that a configuration names."""
    return [*([Spec("tensorboard")] if config.metrics.tensorboard else []), *config.metrics.loggers]


def check_loggers(config: Config) -> None:
    """Check that this process, the future server, has the libraries of the run's loggers.

    Raises:
        ConfigError: naming the key, and what to install.
    """
    for spec in wanted(config):
        module = getattr(LOGGERS.get(spec.name, "metrics.log"), "needs", None)
        if module is not None and not is_installed(module):
            key = "metrics.tensorboard" if spec.name == "tensorboard" else "metrics.log"
            raise ConfigError(f"{key}: {module} is not installed: pip install 'byzdist[{spec.name}]'.")


class Loggers:
    """The loggers of a run. Make it after the last fork of the process, because loggers may start threads."""

    def __init__(self, config: Config, folder: Path) -> None:
        tree = config.model_dump(exclude_none=True)
        self._loggers: dict[str, Any] = {}
        for spec in wanted(config):
            try:
                self._loggers[spec.name] = LOGGERS.build(spec, folder, tree, key="metrics.log")
            except Exception as error:  # a library or a user's own logger may raise any exception
                _complain(spec.name, error)

    def show(self, record: RoundRecord, metrics: Metrics) -> None:
        """Log a round."""
        values = _numbers(record)
        for name, logger in list(self._loggers.items()):
            try:
                logger(record.round, values)
            except Exception as error:
                _complain(name, error)
                del self._loggers[name]

    def close(self, summary: dict[str, Any]) -> None:
        """Give the loggers the run's summary."""
        for name, logger in self._loggers.items():
            try:
                if (close := getattr(logger, "close", None)) is not None:
                    close(summary)
            except Exception as error:
                _complain(name, error)


def _complain(name: str, error: Exception) -> None:
    log.warning("metrics.log: %r ended with %s: %s; the run continues without it.", name, type(error).__name__, error)


def _numbers(record: RoundRecord) -> dict[str, float]:
    """Return a round's numbers by name."""
    values: dict[str, float] = {
        "replies": record.replies,
        "byzantine": record.byzantine,
        "clipped": record.clipped,
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        "seconds": record.seconds.get("total", 0.0),
        **record.evaluation,
        **{f"claimed_{name}": claim["median"] for name, claim in record.claimed.items()},
    }
    if record.clip_level is not None:
        values["clip_level"] = record.clip_level
    return values
