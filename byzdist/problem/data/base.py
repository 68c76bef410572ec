"""What a data set is, before and after it is prepared, and the registry of data sets.

A data function gets the parameters of the data section as keyword arguments and nothing else; one for private data (``where: worker``)
gets a client's id before them. It must return the same at each call: one process of a host calls it, and the cache keeps the result.

Returns:
    A `RawData`, or (X, y), or (X, y, X_test, y_test): features [N, ...] of finite numbers and targets [N, ...], as the task wants
    them; for classification the classes 0, 1, ... [N], each of which has samples. Or, for samples that are read lazily, a
    torch Dataset of map style, (train, test) of them, a DataLoader, or a `Lazy`.

Raises:
    ConfigError: for a wrong parameter or file; the message names the key, the value and the remedy. Any other exception ends the
        run before it starts, in a ConfigError with its text and place.

Example:
    >>> import numpy as np
    >>> from byzdist.problem.data import RawData
    >>> from byzdist.problem.data.arrays import as_arrays
    >>> def halves(*, samples: int = 4) -> RawData:
    ...     features = np.arange(samples)[:, None] / samples
    ...     return RawData(features, (features[:, 0] >= 0.5).astype(int))
    >>> as_arrays(halves(), "halves", np.dtype("float32"))["labels"]
    array([0, 0, 1, 1])
"""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from pydantic_core import PydanticCustomError

from byzdist.host.files import open_plain
from byzdist.registry import Registry


@dataclass(frozen=True)
class RawData:
    """What a data set returns: features [N, ...], labels (the targets) [N, ...], and the same of a test set or None.

    Each is an array or something like it: a torch tensor, a list, a data frame, a sparse matrix.
    """

    features: Any
    labels: Any
    test_features: Any = None
    test_labels: Any = None


@dataclass(frozen=True)
class Dataset:
    """A prepared data set; its arrays are mapped from files, so that the processes of a host share one copy.

    features and test_features are [N, ...] in float32 or float64, or int64 for tokens; labels and test_labels are what the task
    wants, int64 [N] in 0..classes-1 for classification. ``classes`` is how many outputs a model has: classes, numbers to predict, labels,
    or the vocabulary. ``key`` names the content in this host's cache: equal keys mean equal numbers.
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

    def some(self, step: int) -> NDArray[Any]:
        """Return the features of every ``step``-th sample."""
        return self.features[::step]

    def tested(self) -> "Dataset | None":
        """Return the test set as a data set of its own."""
        if self.test_features is None or self.test_labels is None:
            return None
        return replace(self, features=self.test_features, labels=self.test_labels, test_features=None, test_labels=None)


READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""The exceptions of reading a missing, unreadable or damaged file, compressed or not."""

_COMPRESSED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf'\x1c": "7z",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"Rar!": "rar",
    b"\x04\x22M\x18": "lz4",
}

OURS = ("split", "workers")
"""The keys of a data section that are not parameters of the data function."""
DATASETS: Registry[Callable[..., Any]] = Registry("data set")
"""An entry may have an attribute ``task``: the name of its task, if that is not classification."""


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, and unpack it if its first bytes are those of gzip, bz2 or xz.

    Raises:
        OSError: if it cannot be opened, is not a plain file, or is packed in another format.
    """
    file = os.fdopen(open_plain(path, follow=True), "rb")
    begin = file.read(8)
    file.seek(0)
    for mark, packer in _ARCHIVES.items():
        if begin.startswith(mark):
            file.close()
            raise OSError(None, f"it is packed with {packer}; unpack it first")
    for mark, unpack in _COMPRESSED.items():
        if begin.startswith(mark):
            return cast(BinaryIO, unpack(file))
    return file


def refuse(problem: str) -> PydanticCustomError:
    """Return the error with which a validator refuses a parameter's value; the registry turns it into a ConfigError."""
    return PydanticCustomError("data", problem.replace("{", "{{").replace("}", "}}"))
