"""The checks of the transport and the device."""

import logging

from byzdist.compression import COMPRESSORS
from byzdist.config.schema import Config
from byzdist.errors import ConfigError
from byzdist.host.accelerators import count
from byzdist.methods import METHODS

log = logging.getLogger(__name__)


def check_exchange(config: Config) -> None:
    """Check the configuration of the transport and the device.

    Raises:
        ConfigError: naming the key.
    """
    _min_replies(config)
    _late(config)
    _device(config)


def _min_replies(config: Config) -> None:
    cohort = config.method.parameters.get("cohort") or config.clients.count
    if config.transport.min_replies > cohort:
        raise ConfigError(
            f"transport.min_replies: {config.transport.min_replies} replies can never come from a cohort of {cohort} (method.cohort)."
        )


def _late(config: Config) -> None:
    """Refuse late replies that mean nothing, and warn if a hostile client gains by being late."""
    if config.transport.late == "drop":
        return
    method = config.method.name
    if not getattr(METHODS.get(method), "allows_late", False):
        raise ConfigError(
            f"transport.late: the clients of {method} send what holds for their own round alone; use a method whose clients send estimates "
            "(sgd, momentum_sgd), or drop."
        )
    if getattr(COMPRESSORS.get(config.compression.name), "remembers", False):
        raise ConfigError(
            f"transport.late: {config.compression.name!r} remembers, so the order of its messages matters; use another one, or drop."
        )
    if config.method.parameters.get("clip") == "none" and config.declared_byzantine:
        log.warning(
            "transport.late: attackers can answer late on purpose, so that many of them meet in one round, and without clipping such a "
            "round can undo everything. Set method.clip."
        )


def _device(config: Config) -> None:
    kind, _, number = config.device.partition(":")
    seen = 0 if kind in ("auto", "cpu") else count(kind)
    if kind in ("auto", "cpu") or seen > int(number or 0):
        return
    devices = "no GPU" if not seen else "1 GPU" if seen == 1 else f"{seen} GPUs"
    raise ConfigError(f"device: {config.device!r} is wanted, but torch sees {devices} of that kind. Use auto or cpu.")
