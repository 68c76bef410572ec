"""Sparse text files in the format of LIBSVM (a9a, w8a, mushrooms, ...), plain or packed with gzip, bz2 or xz."""

import codecs
import logging
import math
import os
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import AfterValidator

from byzdist.errors import ConfigError
from byzdist.problem.data.arrays import PLAUSIBLE_CLASSES
from byzdist.problem.data.base import DATASETS, READ_ERRORS, RawData, open_binary, refuse

_log = logging.getLogger(__name__)
_BEGINNING = 1 << 16  # bytes that are read to recognise a file
_MARKS = (  # utf-32's little-endian mark begins like utf-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _OddLine(ValueError):
    """What is wrong with a line, without the line's number."""


def _begins_well(path: str) -> str:
    try:
        with open_binary(Path(path)) as file:
            lines = _text(file.read(_BEGINNING)).splitlines(keepends=True)
    except FileNotFoundError:
        raise refuse("there is no such file") from None
    except (ValueError, *READ_ERRORS) as error:
        raise refuse(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(lines) > 1 and not lines[-1].endswith(b"\n"):
        lines.pop()  # it may be cut
    wrong = "this is not a LIBSVM file: a line holds a label and then index:value pairs"
    data = [(number, line) for number, line in enumerate(lines, 1) if _body(line)][:2]
    if not data:
        raise refuse(wrong)
    (number, first), *others = data
    if (cause := _cause(first)) and not (others and _is_header(first, others[0][1])):
        raise refuse(f"{wrong}; line {number}: {cause}")
    return path


LibsvmFile = Annotated[str, AfterValidator(_begins_well)]


@DATASETS.register("libsvm", "svmlight")
def libsvm(
    *,
    path: LibsvmFile,
    test_path: LibsvmFile | None = None,
    features: Annotated[int, Ge(1)] | None = None,
    normalize: bool = False,
) -> RawData:
    """A file in the format of LIBSVM, plain, gzip, bz2 or xz; its labels, in sorted order, become 0, 1, ...

    The array is kept dense. Indices begin at 0 if one of the two files has an index 0, else at 1. ``features`` is their
    number, if the file does not use the last ones; ``normalize`` scales each sample to Euclidean length 1. Query ids (``qid:``)
    and a header line are skipped.
    """
    files = [(key, file) for key, file in (("data.path", path), ("data.test_path", test_path)) if file is not None]
    parts = [_read(key, file) for key, file in files]
    base = min(1, min((int(matrix.indices.min()) for matrix, _ in parts if matrix.nnz), default=0))
    train = _dense("data.path", path, parts[0][0], base, features, normalize)
    values, labels = np.unique(parts[0][1], return_inverse=True)
    _check_labels(values, path)
    if test_path is None:
        return RawData(train, labels)
    # A test file may lack the last features (a9a.t does); it may not have more than the training file.
    test = _dense("data.test_path", test_path, parts[1][0], base, train.shape[1], normalize)
    strange = parts[1][1][~np.isin(parts[1][1], values)]
    if strange.size:
        raise ConfigError(
            f"data.test_path: {test_path!r} has labels that {path!r} lacks, such as {strange[0]:g}. Is it the right file?"
        )
    return RawData(train, labels, test, np.searchsorted(values, parts[1][1]))


def _text(content: bytes) -> bytes:
    """Return text as UTF-8 without a byte-order mark and with line feeds; UTF-16 is recognised by a mark, or by its zeros."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            content = content.removeprefix(mark) if encoding == "utf-8" else _decoded(content, encoding)
            break
    else:
        begin = content[:64]
        if begin[1::2].count(0) > 8 or begin[::2].count(0) > 8:
            content = _decoded(content, "utf-16-le" if begin[1::2].count(0) > 8 else "utf-16-be")
    return content if b"\n" in content else content.replace(b"\r", b"\n")


def _decoded(content: bytes, encoding: str) -> bytes:
    return codecs.getincrementaldecoder(encoding)().decode(content).encode()  # the end may be cut


def _body(line: bytes) -> list[bytes]:
    return line.partition(b"#")[0].split()


def _parsed(line: bytes) -> tuple[float, dict[int, float]] | None:
    """Return a line's label and values by index; None for an empty one.

    Raises:
        _OddLine: if it is malformed; the text says how.
    """
    label, *pairs = _body(line) or [b""]
    if not label:
        return None
    shown = label[:40].decode(errors="replace")
    if b":" in label:
        raise _OddLine(f"it begins with {shown!r}, and has no label")
    if b"," in label and all(map(_number, label.split(b","))):
        raise _OddLine(f"it has several labels, {shown!r}; a sample is of one class here")
    target = _number(label)
    if target is None or not math.isfinite(target):
        raise _OddLine(f"its label is {shown!r}, which is not a number")
    values: dict[int, float] = {}
    for pair in pairs:
        index, colon, value = pair.partition(b":")
        if index == b"qid":
            continue
        number = _number(value)
        if not colon or not index.isdigit() or number is None:
            raise _OddLine(f"{pair[:40].decode(errors='replace')!r} is not an index:value pair")
        if int(index) in values:
            raise _OddLine(f"it has the index {int(index)} twice")
        values[int(index)] = number
    return target, values


def _number(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _cause(line: bytes) -> str | None:
    try:
        _parsed(line)
    except _OddLine as odd:
        return str(odd)
    return None


def _read(key: str, path: str) -> tuple[Any, NDArray[Any]]:
    """Return the sparse matrix of a file, a column for each index from 0, and its labels."""
    from sklearn.datasets import load_svmlight_file  # slow to import: only the process that prepares the data needs it

    try:
        with open_binary(Path(path)) as file:
            content = _text(file.read())
    except (ValueError, *READ_ERRORS) as error:
        raise ConfigError(f"{key}: {path!r} cannot be read as a LIBSVM file: {error}") from error
    content = _without_header(path, content)
    try:
        matrix, labels = load_svmlight_file(BytesIO(content), zero_based=True)
        if np.isfinite(labels).all():
            return matrix, labels
    except (ValueError, OverflowError, IndexError, MemoryError):
        pass
    return _read_line_by_line(key, path, content)


def _without_header(path: str, content: bytes) -> bytes:
    """Turn a first line that is a header into a comment."""
    start = 0
    while start < len(content) and not _body(content[start : _end(content, start)]):
        start = _end(content, start) + 1
    end = _end(content, start)
    following = next((line for line in content[end:].split(b"\n", 3)[:3] if _body(line)), b"")
    if not _is_header(content[start:end], following):
        return content
    _log.warning(
        "%s: its first line, %r, is taken for a header.", path, content[start:end][:60].decode(errors="replace")
    )
    return content[:start] + b"#" + content[start:]


def _is_header(line: bytes, following: bytes) -> bool:
    """Return whether a line is not data, and not meant as data, and the next one is."""
    return bool(_cause(line)) and b":" not in line and bool(_body(following)) and _cause(following) is None


def _end(content: bytes, start: int) -> int:
    end = content.find(b"\n", start)
    return len(content) if end < 0 else end


def _read_line_by_line(key: str, path: str, content: bytes) -> tuple[Any, NDArray[Any]]:
    """Read a file that scikit-learn cannot (with indices in any order, or beyond 32 bits), or say which line is malformed."""
    from scipy.sparse import csr_matrix

    labels, ends = list[float](), [0]
    columns, values = list[int](), list[float]()
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            found = _parsed(line)
        except _OddLine as odd:
            raise ConfigError(f"{key}: {path!r} cannot be read as a LIBSVM file: line {number}: {odd}.") from None
        if found is None:
            continue
        labels.append(found[0])
        if found[1] and max(found[1]) >= 2**62:
            raise _too_wide(key, path, len(labels), max(found[1]), number)
        columns += sorted(found[1])
        values += [found[1][column] for column in sorted(found[1])]
        ends.append(len(columns))
    indices = np.array(columns, np.int64)
    shape = (len(labels), int(indices.max(initial=-1)) + 1)
    return csr_matrix((np.array(values), indices, np.array(ends)), shape), np.array(labels)


def _too_wide(key: str, path: str, rows: int, index: int, line: int | None = None) -> ConfigError:
    where = "" if line is None else f", line {line}"
    return ConfigError(
        f"{key}: {path!r}{where} has the index {index}. The array is kept dense, and {rows} samples of that many features exceed "
        "this machine's memory. Number the features 1, 2, ... without gaps, or hash them into fewer."
    )


def _check_labels(values: NDArray[Any], path: str) -> None:
    """Refuse, or warn of, labels that look like numbers to predict."""
    count, span = len(values), f"from {values[0]:g} to {values[-1]:g}"
    remedy = "byzdist trains classifiers; cut numbers to predict into classes first (np.digitize)"
    odd = values[values != np.floor(values)]
    if odd.size and count > PLAUSIBLE_CLASSES:
        raise ConfigError(f"data.path: {path!r} has {count} labels {span}, such as {odd[0]:g}; {remedy}.")
    named = values[0] in (-1, 0, 1) and values[-1] - values[0] == count - 1
    if count > 2 and not named:
        _log.warning("%s: its %d labels %s are taken for classes 0 to %d; %s.", path, count, span, count - 1, remedy)


def _dense(key: str, path: str, matrix: Any, base: int, features: int | None, normalized: bool) -> NDArray[Any]:
    from sklearn.preprocessing import normalize

    matrix = matrix[:, base:]
    if features is not None:
        if matrix.shape[1] > features:
            raise ConfigError(f"{key}: {path!r} has {matrix.shape[1]} features, and {features} are wanted.")
        matrix.resize(matrix.shape[0], features)
    if 8 * matrix.shape[0] * matrix.shape[1] > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise _too_wide(key, path, matrix.shape[0], matrix.shape[1] - 1 + base)
    dense: NDArray[Any] = (normalize(matrix) if normalized else matrix).toarray()
    return dense
