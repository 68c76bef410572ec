"""Arrays in a file of numpy's savez."""

import os
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
from pydantic import AfterValidator

from byzdist.errors import ConfigError
from byzdist.host.files import open_plain
from byzdist.problem.data.base import DATASETS, RawData
from byzdist.problem.data.tabular import Share, can_be_read, numbered, of_parts, parts


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(open_plain(path, follow=True), "rb")


def _can_be_read(path: str) -> str:
    return can_be_read(path, _opened)


@DATASETS.register("npz")
def npz(
    *,
    path: Annotated[str, AfterValidator(_can_be_read)],
    features: str = "X",
    target: str = "y",
    test_share: Share = 0.0,
    standardize: bool = False,
) -> RawData:
    """A file of `numpy.savez` with arrays ``X`` and ``y``, and perhaps ``X_test`` and ``y_test``; parameters can give other names."""
    test_features, test_target = f"{features}_test", f"{target}_test"
    try:
        with _opened(Path(path)) as file, np.load(file, allow_pickle=False) as content:
            missing = {features, target} - set(content.files)
            if missing:
                known = ", ".join(content.files)
                raise ConfigError(f"data.path: {path!r} has no array {', '.join(sorted(missing))!r}; it has {known}.")
            tested = {test_features, test_target} <= set(content.files)
            names = (features, target, test_features, test_target) if tested else (features, target)
            arrays = [content[name] for name in names]
    except ConfigError:
        raise
    except Exception as error:  # numpy and zipfile raise many errors for a damaged archive
        raise ConfigError(f"data.path: {path!r} is not a file of numpy.savez: {error}.") from error
    if any(len(x) != len(y) for x, y in zip(arrays[::2], arrays[1::2], strict=True)):
        raise ConfigError(f"data.path: {path!r}: {features} and {target} have different lengths.")
    targets = numbered(arrays[1::2])
    if not tested:
        return parts(arrays[0], targets[0], test_share, standardize)
    if test_share:
        raise ConfigError(f"data.test_share: {path!r} has a test set of its own, {test_features}; leave this key out.")
    return of_parts(arrays[0], targets[0], arrays[2], targets[1], standardize=standardize)
