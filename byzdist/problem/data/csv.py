"""Tables in comma-separated files."""

from __future__ import annotations

import csv as csv_format
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from byzdist.errors import ConfigError
from byzdist.problem.data.base import DATASETS, READ_ERRORS, RawData, open_binary
from byzdist.problem.data.tabular import DataFile, Share, numbered, of_parts, parts

_MAX_CATEGORIES = 1000  # different words of a column; with more, they are texts or names of samples


class _Table:
    """The columns of one or several files with the same header, as text."""

    def __init__(self, paths: list[str], delimiter: str) -> None:
        self.names: list[str] = []
        self.sizes: list[int] = []
        rows: list[list[str]] = []
        for path in paths:
            names, body = _read(path, delimiter)
            if self.names and names != self.names:
                raise ConfigError(f"data.test_path: {path!r} has other columns than data.path: {names}.")
            self.names = names
            self.sizes.append(len(body))
            rows += body
        self._columns = list(zip(*rows, strict=True))
        self._path = paths[0]

    def column(self, name: str) -> NDArray[Any]:
        """Return a column as numbers, or as text if some entry is not a number."""
        cells = self._columns[self.names.index(name)]
        empty = next((row for row, cell in enumerate(cells) if not cell.strip()), None)
        if empty is not None:
            raise ConfigError(
                f"data.path: {self._path!r}: row {empty + 1} has nothing in column {name!r}; fill it, or leave the row out."
            )
        try:
            return np.array(cells, np.float64)
        except ValueError:
            return np.array([cell.strip() for cell in cells])

    def features(self, name: str) -> NDArray[Any]:
        """Return a column as numbers [N, 1], or as one column of 0 and 1 for each of its words [N, words]."""
        column = self.column(name)
        if column.dtype.kind == "f":
            return column[:, None]
        words, places = np.unique(column, return_inverse=True)
        if len(words) > _MAX_CATEGORIES:
            raise ConfigError(
                f"data.path: {self._path!r}: column {name!r} has {len(words)} different words, too many to be categories; leave it out "
                "with data.drop."
            )
        return np.eye(len(words))[places]


def _read(path: str, delimiter: str) -> tuple[list[str], list[list[str]]]:
    try:
        with TextIOWrapper(open_binary(Path(path)), "utf-8-sig", newline="") as file:
            lines = [line for line in csv_format.reader(file, delimiter=delimiter) if line]
    except (csv_format.Error, UnicodeDecodeError, *READ_ERRORS) as error:
        raise ConfigError(f"data.path: {path!r} cannot be read: {error}.") from error
    if len(lines) < 2:
        raise ConfigError(f"data.path: {path!r} has no rows below its header.")
    header, body = [name.strip() for name in lines[0]], lines[1:]
    for number, line in enumerate(body, 1):
        if len(line) != len(header):
            raise ConfigError(
                f"data.path: {path!r}: row {number} has {len(line)} entries, and the header {len(header)}."
            )
    return header, body


@DATASETS.register("csv")
def csv(
    *,
    path: DataFile,
    target: str | list[str],
    drop: Sequence[str] = (),
    test_path: DataFile | None = None,
    test_share: Share = 0.0,
    standardize: bool = True,
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ",",
) -> RawData:
    """A table with a header line, plain or packed; ``target`` names the column to predict, or a list of them.

    Columns of words become columns of 0 and 1, one for each word; targets that are words become classes. ``drop`` leaves columns out.
    The test set is another file, ``test_path``, or a share of this one. Features are standardized by the training part.
    """
    if test_path and test_share:
        raise ConfigError("data.test_share: the test set is data.test_path; leave one of the two out.")
    table = _Table([path, test_path] if test_path else [path], delimiter)
    targets = [target] if isinstance(target, str) else target
    for name in (*targets, *drop):
        if name not in table.names:
            raise ConfigError(
                f"data.target, data.drop: there is no column {name!r}; the columns are {', '.join(table.names)}."
            )
    kept = [name for name in table.names if name not in targets and name not in drop]
    if not kept:
        raise ConfigError(f"data.path: {path!r} has no column besides data.target; there is nothing to learn from.")
    features = np.concatenate([table.features(name) for name in kept], 1)
    columns = [numbered([table.column(name)])[0] for name in targets]
    y = columns[0] if isinstance(target, str) else np.stack(columns, 1)
    if not test_path:
        return parts(features, y, test_share, standardize)
    cut = table.sizes[0]
    return of_parts(features[:cut], y[:cut], features[cut:], y[cut:], standardize=standardize)
