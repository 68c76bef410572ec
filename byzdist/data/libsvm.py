"""Sparse text files in the format of LIBSVM, plain or gzipped (a9a, w8a, mushrooms, ...)."""

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import AfterValidator

from byzdist.data.base import DATASETS, READ_ERRORS, RawData, open_binary, refuse
from byzdist.errors import ConfigError

_FIRST_LINE = re.compile(rb"\s*[-+.\deE]+(\s+(qid:)?\d+:[-+.\deEnaif]+)*\s*(#.*)?$")


def _first_line_fits(path: str) -> str:
    try:
        with open_binary(Path(path)) as file:
            line = next((line for line in file if line.strip() and not line.startswith(b"#")), b"")
    except FileNotFoundError:
        raise refuse("there is no such file") from None
    except READ_ERRORS as error:
        raise refuse(f"the file cannot be read: {error}") from None
    if not _FIRST_LINE.match(line):
        raise refuse("this is no LIBSVM file: a line holds a label and then index:value pairs")
    return path


LibsvmFile = Annotated[str, AfterValidator(_first_line_fits)]


@DATASETS.register("libsvm")
def libsvm(
    *,
    path: LibsvmFile,
    test_path: LibsvmFile | None = None,
    features: Annotated[int, Ge(1)] | None = None,
    normalize: bool = False,
) -> RawData:
    """A file in the format of LIBSVM, plain or gzipped; its labels, in sorted order, become 0, 1, ...

    The array is kept dense. ``features`` is their number where the file does not use the last ones; ``normalize`` scales
    each sample to Euclidean length 1.
    """
    train, train_labels = _read("data.path", path, features, normalize)
    values, labels = np.unique(train_labels, return_inverse=True)
    if test_path is None:
        return RawData(train, labels)
    # A test file may lack the last features (a9a.t does); it may not have more than the training file.
    test, test_labels = _read("data.test_path", test_path, train.shape[1], normalize)
    if not np.isin(test_labels, values).all():
        raise ConfigError(f"data.test_path: {test_path!r} has labels that {path!r} lacks. Is it the right file?")
    return RawData(train, labels, test, np.searchsorted(values, test_labels))


def _read(key: str, path: str, features: int | None, normalized: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    # Slow to import: only the process that prepares the data needs them.
    from sklearn.datasets import load_svmlight_file
    from sklearn.preprocessing import normalize

    try:
        with open_binary(Path(path)) as file:
            matrix, labels = load_svmlight_file(file, n_features=features)
    except (ValueError, *READ_ERRORS) as error:
        raise ConfigError(f"{key}: {path!r} cannot be read as a LIBSVM file: {error}") from error
    return (normalize(matrix) if normalized else matrix).toarray(), labels
