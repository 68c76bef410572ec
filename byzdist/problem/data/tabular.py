"""Tables: what a csv file and an npz file of columns have in common."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from byzdist.problem.data.base import READ_ERRORS, RawData, open_binary, refuse
from byzdist.randomness import stream


def can_be_read(path: str, opened: Callable[[Path], BinaryIO] = open_binary) -> str:
    """Return a path whose file exists and is not empty; a parameter's validator."""
    try:
        with opened(Path(path)) as file:
            if not file.read(1):
                raise refuse("the file is empty")
    except FileNotFoundError:
        raise refuse("there is no such file") from None
    except READ_ERRORS as error:
        raise refuse(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return path


DataFile = Annotated[str, AfterValidator(can_be_read)]
Share = Annotated[float, Field(ge=0, lt=1)]


def standardized(train: NDArray[Any], test: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return both parts with the mean and the deviation of the training part taken out, column by column."""
    mean, deviation = train.mean(0), train.std(0)
    deviation[deviation == 0] = 1.0
    return (train - mean) / deviation, None if test is None else (test - mean) / deviation


def numbered(targets: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return targets that are names of classes as 0, 1, ... in sorted order, and numbers as they are; all parts alike."""
    if all(part.dtype.kind in "biuf" for part in targets):
        return list(targets)
    classes, numbers = np.unique(np.concatenate([part.astype(str) for part in targets]), return_inverse=True)
    del classes
    return np.split(numbers, np.cumsum([len(part) for part in targets])[:-1])


def parts(features: NDArray[Any], targets: NDArray[Any], test_share: float, standardize: bool) -> RawData:
    """Return a data set of which ``test_share``, drawn once and for all, is the test set."""
    order = stream(0, "test part").permutation(len(targets))
    held_out = round(test_share * len(targets))
    train, test = order[held_out:], order[:held_out]
    held_out_parts = (features[test], targets[test]) if held_out else (None, None)
    return of_parts(features[train], targets[train], *held_out_parts, standardize=standardize)


def of_parts(
    features: NDArray[Any],
    targets: NDArray[Any],
    test_features: NDArray[Any] | None,
    test_targets: NDArray[Any] | None,
    *,
    standardize: bool,
) -> RawData:
    """Return a data set of a training and perhaps a test part, standardized by the former if ``standardize``."""
    if standardize:
        features, test_features = standardized(features, test_features)
    return RawData(features, targets, test_features, test_targets)
