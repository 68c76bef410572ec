"""The methods: one file each, client half and server half side by side."""

from byzdist.methods.base import METHODS, ClientTask, Method, Sizes
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = ["METHODS", "ClientTask", "Method", "Sizes"]
