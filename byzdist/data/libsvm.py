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


@DATASETS.register("libsvm", "svmlight")
def libsvm(
    *,
    path: LibsvmFile,
    test_path: LibsvmFile | None = None,
    features: Annotated[int, Ge(1)] | None = None,
    normalize: bool = False,
) -> RawData:
    """A file in the format of LIBSVM, plain or gzipped; its labels, in sorted order, become 0, 1, ...

    The array is kept dense. Indices begin at 0 where one of the two files has an index 0, else at 1. ``features`` is their
    number where the file does not use the last ones; ``normalize`` scales each sample to Euclidean length 1.
    """
    parts = [_read(key, file) for key, file in (("data.path", path), ("data.test_path", test_path)) if file is not None]
    base = min(1, min((int(matrix.indices.min()) for matrix, _ in parts if matrix.nnz), default=0))
    train = _dense("data.path", path, parts[0][0], base, features, normalize)
    values, labels = np.unique(parts[0][1], return_inverse=True)
    if test_path is None:
        return RawData(train, labels)
    # A test file may lack the last features (a9a.t does); it may not have more than the training file.
    test = _dense("data.test_path", test_path, parts[1][0], base, train.shape[1], normalize)
    if not np.isin(parts[1][1], values).all():
        raise ConfigError(f"data.test_path: {test_path!r} has labels that {path!r} lacks. Is it the right file?")
    return RawData(train, labels, test, np.searchsorted(values, parts[1][1]))


def _read(key: str, path: str) -> tuple[Any, NDArray[Any]]:
    """Return the sparse matrix of a file, a column for each index from 0, and its labels."""
    from sklearn.datasets import load_svmlight_file  # slow to import: only the process that prepares the data needs it

    try:
        with open_binary(Path(path)) as file:
            matrix, labels = load_svmlight_file(file, zero_based=True)
    except (ValueError, *READ_ERRORS) as error:
        raise ConfigError(f"{key}: {path!r} cannot be read as a LIBSVM file: {error}") from error
    return matrix, labels


def _dense(key: str, path: str, matrix: Any, base: int, features: int | None, normalized: bool) -> NDArray[Any]:
    from sklearn.preprocessing import normalize

    matrix = matrix[:, base:]
    if features is not None:
        if matrix.shape[1] > features:
            raise ConfigError(f"{key}: {path!r} has {matrix.shape[1]} features, and {features} are wanted.")
        matrix.resize(matrix.shape[0], features)
    dense: NDArray[Any] = (normalize(matrix) if normalized else matrix).toarray()
    return dense
