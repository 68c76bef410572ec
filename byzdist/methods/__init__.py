"""The methods: one file each, client half and server half side by side."""

from byzdist.methods.base import METHODS, Method, Sizes, Task
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = ["METHODS", "Method", "Sizes", "Task"]
