"""MNIST, and every data set in the same four IDX files (Fashion-MNIST, KMNIST, ...), plain or gzipped."""

import struct
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from byzdist.data.base import DATASETS, READ_ERRORS, RawData, open_binary, refuse
from byzdist.errors import ConfigError

_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_MEAN, _DEVIATION = 0.1307, 0.3081  # of MNIST's grey values in [0, 1]


class _IdxError(Exception):
    """An IDX file that is not there, or not what its name says."""


def _find(folder: str, part: str) -> Path:
    for name in (f"{part}-ubyte", f"{part}-ubyte.gz"):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise _IdxError(f"the folder has no {part}-ubyte or {part}-ubyte.gz")


def _shape(folder: str, part: str) -> tuple[int, ...]:
    """Return the shape in the header of an IDX file: two zero bytes, 8 for uint8, the number of axes, their lengths."""
    path, axes = _find(folder, part), int(part[-1])
    try:
        with open_binary(path) as file:
            header = file.read(4 + 4 * axes)
    except READ_ERRORS as error:
        raise _IdxError(f"{path.name} cannot be read: {error}") from error
    if len(header) < 4 + 4 * axes or header[:4] != bytes([0, 0, 8, axes]):
        raise _IdxError(f"{path.name} does not begin like an IDX file of bytes with {axes} axes")
    return struct.unpack(f">{axes}I", header[4:])


def _headers_fit(folder: str) -> str:
    try:
        shapes = [_shape(folder, part) for part in _PARTS]
    except _IdxError as error:
        raise refuse(str(error)) from None
    if shapes[0][0] != shapes[1][0] or shapes[2][0] != shapes[3][0] or shapes[0][1:] != shapes[2][1:]:
        raise refuse(f"the four IDX files do not belong together: their shapes are {shapes}")
    return folder


def _read(folder: str, part: str) -> NDArray[np.uint8]:
    path, shape = _find(folder, part), _shape(folder, part)
    try:
        with open_binary(path) as file:
            content = file.read()
    except READ_ERRORS as error:
        raise ConfigError(f"data.path: {str(path)!r} cannot be read: {error}") from error
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
    if values.size != np.prod(shape, dtype=np.int64):
        raise ConfigError(f"data.path: {str(path)!r} has {values.size} values where its header says {shape}.")
    return values.reshape(shape)


def _standardized(images: NDArray[np.uint8]) -> NDArray[Any]:
    return ((np.arange(256) / 255 - _MEAN) / _DEVIATION)[images]


@DATASETS.register("mnist")
def mnist(*, path: Annotated[str, AfterValidator(_headers_fit)]) -> RawData:
    """MNIST from a folder with its four IDX files, plain or gzipped: 60,000 images of 28 x 28, and 10,000 to test.

    Grey values are standardized with MNIST's mean and deviation, as is usual for this data set.
    """
    train, train_labels, test, test_labels = (_read(path, part) for part in _PARTS)
    return RawData(_standardized(train), train_labels, _standardized(test), test_labels)
