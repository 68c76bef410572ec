"""MNIST, and every data set in the same four IDX files (Fashion-MNIST, KMNIST, EMNIST, ...), plain or packed."""

import re
import struct
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ValidationInfo

from byzdist.errors import ConfigError
from byzdist.problem.data.base import DATASETS, READ_ERRORS, RawData, open_binary, refuse

_PARTS = ("train-images", "train-labels", "test-images", "test-labels")
_AXES = {"images": 3, "labels": 1}
# train-images-idx3-ubyte, t10k-labels.idx1-ubyte.gz, emnist-letters-test-images-idx3-ubyte, ...
_NAME = re.compile(
    r"(?:emnist-(\w+)-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.(?:gz|bz2|xz))?", re.IGNORECASE
)
_MEAN, _DEVIATION = 0.1307, 0.3081  # of MNIST's grey values in [0, 1]
_FROM_ONE = "letters"  # the set of EMNIST whose labels are 1 to 26


class _IdxError(Exception):
    """An IDX file is missing, or is not what its name says."""


def _find(folder: str, chosen: str | None = None) -> tuple[str, dict[str, Path]]:
    """Return the name of a set ("" if it has none) and its four files.

    They are in the folder, in its ``raw``, or in ``NAME/raw``, where torchvision puts them; some unpackers put each file into a
    folder of the file's name.
    """
    found: dict[tuple[Path, str], dict[str, Path]] = {}
    root = Path(folder)
    for place in (root, root / "raw", *sorted(root.glob("*/raw"))):
        named = [path for path in sorted(place.glob("*")) if _NAME.fullmatch(path.name)]
        for path in chain(named, *(sorted(path.glob("*")) for path in named if path.is_dir())):
            match = _NAME.fullmatch(path.name)
            if match and path.is_file():
                part = f"{'train' if match[2].lower() == 'train' else 'test'}-{match[3].lower()}"
                found.setdefault((place, (match[1] or "").lower()), {}).setdefault(part, path)
    wanted = {key: files for key, files in found.items() if chosen in (None, key[1])}
    complete = {key: files for key, files in wanted.items() if len(files) == len(_PARTS)}
    if len(complete) == 1:
        ((_, name), files), *_ = complete.items()
        return name, files
    names = sorted({name for _, name in complete})
    if len(names) > 1:
        raise _IdxError(f"the folder has the sets {', '.join(names)} of EMNIST; choose one with data.subset")
    if complete:
        raise _IdxError(
            f"the folder has several sets, in {', '.join(sorted(str(p.relative_to(root)) for p, _ in complete))}; name one"
        )
    if chosen is not None and found and not wanted:
        known = ", ".join(sorted({name or "one without a name" for _, name in found}))
        raise _IdxError(f"the folder has no set {chosen!r} (data.subset), but {known}")
    have = max(wanted.values(), key=len, default={})
    missing = next(part for part in _PARTS if part not in have)
    file = f"{missing.replace('test', 't10k')}-idx{_AXES[missing.partition('-')[2]]}-ubyte"
    raise _IdxError(
        f"the folder has no {file}, plain or packed (.gz, .bz2, .xz), nor has {root.name}/raw or {root.name}/*/raw"
    )


def _shape(path: Path, part: str) -> tuple[int, ...]:
    """Return the shape in the header of an IDX file: two zero bytes, 8 for uint8, the number of axes, their lengths."""
    axes = _AXES[part.partition("-")[2]]
    try:
        with open_binary(path) as file:
            header = file.read(4 + 4 * axes)
    except READ_ERRORS as error:
        raise _IdxError(f"{path.name} cannot be read: {error}") from error
    if len(header) < 4 + 4 * axes or header[:4] != bytes([0, 0, 8, axes]):
        raise _IdxError(f"{path.name} does not begin like an IDX file of bytes with {axes} axes")
    return struct.unpack(f">{axes}I", header[4:])


def _headers_fit(folder: str, info: ValidationInfo) -> str:
    try:
        _, files = _find(folder, info.data.get("subset"))
        shapes = [_shape(files[part], part) for part in _PARTS]
    except _IdxError as error:
        raise refuse(str(error)) from None
    if shapes[0][0] != shapes[1][0] or shapes[2][0] != shapes[3][0] or shapes[0][1:] != shapes[2][1:]:
        raise refuse(f"the four IDX files do not belong together: their shapes are {shapes}")
    return folder


def _read(path: Path, part: str) -> NDArray[np.uint8]:
    try:
        shape = _shape(path, part)
        with open_binary(path) as file:
            content = file.read()
    except (_IdxError, *READ_ERRORS) as error:
        raise ConfigError(f"data.path: {str(path)!r} cannot be read: {error}") from error
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
    if values.size != np.prod(shape, dtype=np.int64):
        raise ConfigError(f"data.path: {str(path)!r} has {values.size} values where its header says {shape}.")
    return values.reshape(shape)


def _standardized(images: NDArray[np.uint8]) -> NDArray[Any]:
    return ((np.arange(256) / 255 - _MEAN) / _DEVIATION)[images]


@DATASETS.register("mnist")
def mnist(*, subset: str | None = None, path: Annotated[str, AfterValidator(_headers_fit)]) -> RawData:
    """MNIST from a folder with its four IDX files, plain or packed: 60,000 images of 28 x 28, and 10,000 to test.

    The folder may be torchvision's (with ``MNIST/raw`` in it). ``subset`` chooses one of EMNIST's sets (letters, balanced, ...)
    where there are several; letters are numbered from 0. Grey values are standardized with MNIST's mean and deviation, as is usual
    for this data set.
    """
    name, files = _find(path, subset)
    train, train_labels, test, test_labels = (_read(files[part], part) for part in _PARTS)
    if name == _FROM_ONE and min(train_labels.min(), test_labels.min()) == 1:
        train_labels, test_labels = train_labels - 1, test_labels - 1
    return RawData(_standardized(train), train_labels, _standardized(test), test_labels)
