"""Names for what rules calculate with."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = Any  # a dense float64 array or, where it would be large and empty, a scipy.sparse array
