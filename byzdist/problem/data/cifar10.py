"""CIFAR-10, from its python version or its binary one, unpacked or as the archive that is handed out."""

import tarfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from byzdist.errors import ConfigError
from byzdist.problem.data.base import DATASETS, READ_ERRORS, RawData, open_binary, refuse
from byzdist.problem.data.plain_pickle import Named, PlainPickleError, plain_values

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_PARTS = (*_TRAIN, "test_batch")
_FOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")  # as the archives name them
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_CLASSES = 10
_LARGEST = 1 << 26  # bytes of a file, about twice what one has
_MEANS, _DEVIATIONS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of the colours, as usual for this set

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def _files(folder: Path) -> dict[str, Path]:
    """Return the six files of a folder, or of one in it that is named as the archives name it.

    Raises:
        FileNotFoundError: if one is missing.
    """
    places = [folder / name for name in _FOLDERS]
    for suffix in ("", ".bin"):
        for place in places:
            found = {part: place / f"{part}{suffix}" for part in _PARTS}
            if all(path.is_file() for path in found.values()):
                return found
    missing = next((part for part in _PARTS if not any((place / part).is_file() for place in places)), "test_batch")
    raise FileNotFoundError(
        f"the folder has no {missing}; it needs {_PARTS[0]} to {_TRAIN[-1]} and test_batch, all without a suffix or all with .bin, "
        f"in itself or in {' or '.join(_FOLDERS[1:])}"
    )


def _is_there(path: str) -> str:
    try:
        if Path(path).is_dir():
            _files(Path(path))
        else:
            with open_binary(Path(path)) as file, tarfile.open(fileobj=file, mode="r|") as archive:
                archive.next()
    except FileNotFoundError as error:
        raise refuse("there is no such file or folder" if error.errno else str(error)) from None
    except (tarfile.TarError, *READ_ERRORS) as error:
        raise refuse(f"the file is no archive of CIFAR-10 (.tar.gz or .tar): {error}") from None
    return path


def _contents(path: Path) -> dict[str, bytes]:
    """Return the content of each file by its name, ``.bin`` included."""
    if path.is_dir():
        files = {file.name: file for file in _files(path).values()}
        return {name: _whole(name, file.stat().st_size, open_binary(file)) for name, file in files.items()}
    found = {}
    with open_binary(path) as file, tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if member.isreg() and name.removesuffix(".bin") in _PARTS:
                found[name] = _whole(name, member.size, archive.extractfile(member))
    return found


def _whole(name: str, size: int, file: Any) -> bytes:
    with file:
        if size > _LARGEST:
            raise OSError(None, f"{name} has {size} bytes; a file of CIFAR-10 has about {_LARGEST >> 1}")
        content: bytes = file.read()
        return content


def _of_binary(content: bytes) -> tuple[Images, Labels]:
    """Read records of a label's byte and 3072 of pixels."""
    if not content or len(content) % (1 + _PIXELS):
        raise ValueError(f"it has {len(content)} bytes, not a multiple of {1 + _PIXELS}")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _of_pickle(content: bytes) -> tuple[Images, Labels]:
    """Read a dictionary with an array ``data`` of uint8 and a list ``labels``, as numpy and Python 2 pickled them."""
    match plain_values(content):
        case {
            b"data": Named(
                name="numpy.core.multiarray _reconstruct",
                state=(1, (int(count), 3072), Named(name="numpy dtype", arguments=(b"u1", *_)), False, bytes(pixels)),
            ),
            b"labels": list(labels),
        } if len(pixels) == count * _PIXELS > 0 and len(labels) == count and all(type(y) is int for y in labels):
            return np.frombuffer(pixels, np.uint8).reshape(count, _PIXELS), np.array(labels)
    raise ValueError("it has not as many labels, in a list, as rows of 3072 pixels, in an array of uint8")


def _standardized(images: Images) -> NDArray[np.float32]:
    table = ((np.arange(256)[:, None] / 255 - _MEANS) / _DEVIATIONS).astype(np.float32)
    images = images.reshape(-1, *_SHAPE)
    return np.stack([table[images[:, colour], colour] for colour in range(3)], axis=1)


@DATASETS.register("cifar10")
def cifar10(*, path: Annotated[str, AfterValidator(_is_there)]) -> RawData:
    """CIFAR-10 from a folder with its six files, or the archive: 50,000 images of 3 x 32 x 32, and 10,000 to test.

    The files are those of the python version or, with the suffix .bin, of the binary one. The python version is pickled; its values
    are read without unpickling anything. Colours are standardized with the means and deviations usual for this set.
    """
    try:
        contents = _contents(Path(path))
    except (tarfile.TarError, *READ_ERRORS) as error:
        raise ConfigError(f"data.path: {path!r} cannot be read: {error}") from error
    suffix = next((suffix for suffix in ("", ".bin") if {f"{part}{suffix}" for part in _PARTS} <= set(contents)), None)
    if suffix is None:
        raise ConfigError(f"data.path: {path!r} has not all of {', '.join(_PARTS)}, without a suffix or with .bin.")
    batches = [_batch(f"{part}{suffix}", contents, path) for part in _PARTS]
    images, labels = (np.concatenate([batch[i] for batch in batches[:-1]]) for i in (0, 1))
    test_images, test_labels = batches[-1]
    return RawData(_standardized(images), labels, _standardized(test_images), test_labels)


def _batch(name: str, contents: dict[str, bytes], path: str) -> tuple[Images, Labels]:
    try:
        images, labels = (_of_binary if name.endswith(".bin") else _of_pickle)(contents[name])
    except (ValueError, PlainPickleError) as error:
        raise ConfigError(f"data.path: {name} in {path!r} is no file of CIFAR-10: {error}.") from error
    if not 0 <= labels.min() <= labels.max() < _CLASSES:
        raise ConfigError(
            f"data.path: {name} in {path!r} has labels from {labels.min()} to {labels.max()}, not 0 to 9."
        )
    return images, labels
