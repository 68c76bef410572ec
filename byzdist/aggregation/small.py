"""Products of small matrices, whose bits do not depend on the number of threads: added in a fixed order, or in one thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg.lapack  # noqa: F401  # loads scipy's library, so that `_libraries` finds it
from threadpoolctl import ThreadpoolController

from byzdist.aggregation.types import Floats

_SMALL = 1 << 15  # multiplications that numpy's own loops finish sooner than a library's threads can be limited to one


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit the linear algebra libraries of numpy and scipy to one thread."""
    with _libraries().limit(limits=1):
        yield


def product(a: Any, b: Any) -> Floats:
    """Return a @ b; each matrix (or vector b) may be sparse."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        result: Floats = a @ b  # scipy.sparse uses one thread and adds in the order of the entries
        return result
    if a.size * (b.shape[1] if b.ndim == 2 else 1) <= _SMALL:
        small: Floats = np.einsum("ij,jk->ik" if b.ndim == 2 else "ij,j->i", a, b)
        return small
    with one_thread():
        large: Floats = a @ b
        return large
