"""The tasks that come with byzdist, one per file; a new file is found here without being listed."""

from byzdist.problem.task import TASKS
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = ["TASKS"]
