"""Where a run's metrics go besides its folder, one logger a file; a new file is found here without being listed."""

from byzdist.loggers.base import LOGGERS
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = ["LOGGERS"]
