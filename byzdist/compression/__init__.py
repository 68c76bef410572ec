"""The compressors: one small class each."""

from byzdist.compression.base import COMPRESSORS, Compressor
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = ["COMPRESSORS", "Compressor"]
