"""Names for the types of numbers and matrices that rules compute with."""

from typing import Any, TypeAlias

from byzdist.norms import Floats

__all__ = ["Floats", "Matrix"]
Matrix: TypeAlias = Any  # a dense float64 array, or a scipy.sparse array if it is large and has few entries
