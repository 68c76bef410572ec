"""Names for the types of numbers and matrices that rules compute with."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = Any  # a dense float64 array, or a scipy.sparse array if it is large and has few entries
