"""Loggers send a run's metrics elsewhere, besides its folder. Each is one file in this folder, found without being listed."""

from byzdist.loggers.base import LOGGERS
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = ["LOGGERS"]
