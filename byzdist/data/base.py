"""What a data set is, before and after it is prepared, and the registry of data sets."""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from pydantic_core import PydanticCustomError

from byzdist.registry import Registry


@dataclass(frozen=True)
class RawData:
    """What a registered data set returns: features [N, ...], labels 0..L-1 [N], and the same of a test set or None."""

    features: NDArray[Any]
    labels: NDArray[Any]
    test_features: NDArray[Any] | None = None
    test_labels: NDArray[Any] | None = None


@dataclass(frozen=True)
class Dataset:
    """A prepared data set; its arrays are mapped from files, so that the processes of a host share one copy.

    features and test_features are [N, ...] in float32 or float64, labels and test_labels int64 [N] in 0..classes-1.
    ``key`` names the content in the cache of this host: equal keys, equal numbers.
    """

    key: str
    features: NDArray[Any]
    labels: NDArray[np.int64]
    test_features: NDArray[Any] | None
    test_labels: NDArray[np.int64] | None
    classes: int

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one sample's features."""
        return tuple(self.features.shape[1:])


READ_ERRORS = (OSError, EOFError, zlib.error)
"""What reading a missing, unreadable or damaged file raises, gzipped or not."""

DATASETS: Registry[Callable[..., RawData]] = Registry("data set")


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, through gzip where its first two bytes say so."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")


def refuse(problem: str) -> PydanticCustomError:
    """Return the error by which a validator refuses a parameter's value; the registry makes a ConfigError of it."""
    return PydanticCustomError("data", problem.replace("{", "{{").replace("}", "}}"))
