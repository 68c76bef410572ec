"""Products of small matrices, whose bits do not depend on the number of threads: a fixed order for a few numbers, else one thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg.lapack  # noqa: F401  # so that its library is among those found
from threadpoolctl import ThreadpoolController

from byzdist.aggregation.types import Floats

_FEW = 1 << 15  # multiplications; numpy's own loops do as many before a library's threads would be told to wait


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let the libraries of linear algebra that numpy and scipy call work in one thread."""
    with _libraries().limit(limits=1):
        yield


def product(a: Any, b: Any) -> Floats:
    """Return a @ b; each matrix (or vector b) may be sparse."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        result: Floats = a @ b  # scipy.sparse adds in the order of the entries, in one thread
        return result
    if a.size * (b.shape[1] if b.ndim == 2 else 1) <= _FEW:
        few: Floats = np.einsum("ij,jk->ik" if b.ndim == 2 else "ij,j->i", a, b)
        return few
    with one_thread():
        many: Floats = a @ b
        return many
