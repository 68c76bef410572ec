"""Turns what a data function returns into arrays of numbers that a run can use, or says in a sentence what is wrong with it."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from byzdist.errors import ConfigError
from byzdist.problem.data.base import RawData
from byzdist.problem.task import Task
from byzdist.problem.tasks.classification import CLASSIFICATION

PLAUSIBLE_CLASSES = 20  # more different labels than this are probably numbers to predict, not names of classes


def as_arrays(
    returned: Any, name: str, dtype: np.dtype[Any], task: Task = CLASSIFICATION, *, whole: bool = True
) -> dict[str, NDArray[Any]]:
    """Return the parts of a data set by their names in `RawData`: numbers in ``dtype``, classes and tokens as int64.

    Args:
        returned: a RawData, or (X, y), or (X, y, X_test, y_test), of arrays or anything like an array.
        name: the data function, for the error.
        dtype: of the features, and of targets that are numbers.
        task: says what features and targets are.
        whole: whether this is all the data, so that each class must have samples; else it is one client's part.

    Raises:
        ConfigError: for data from which no model can learn; the check comes after the last cast.
    """
    raw = _as_raw(returned, name)
    arrays: dict[str, NDArray[Any]] = {}
    for part, features, labels in (("", raw.features, raw.labels), ("test ", raw.test_features, raw.test_labels)):
        if features is None or labels is None:
            if part and features is None and labels is None:
                continue
            raise ConfigError(f"data.name: {name!r} gives {part}features without labels, or labels without features.")
        key = part.replace(" ", "_")
        found = _numbers(features, f"data.name: {name!r} has {part}features")
        targets = arrays[f"{key}labels"] = _targets(labels, f"data.name: {name!r} has {part}labels", dtype, task)
        shapes = f"{found.shape} and {targets.shape}"
        if found.ndim < 2 or not targets.ndim or len(found) != len(targets) or not found.size:
            remedy = " A single feature is a column: X[:, None]." if found.ndim == 1 else ""
            raise ConfigError(
                f"data.name: {name!r} gives {part}features and labels of shapes {shapes}; want [N, ...], [N].{remedy}"
            )
        what = f"data.name: {name!r} has {part}features"
        arrays[f"{key}features"] = _cast(found, dtype, what) if task.inputs == "numbers" else _tokens(found, what)
    _check_test(arrays, name, task)
    if task.target == "classes":
        _check_classes(arrays["labels"], name, whole)
    return arrays


def outputs(arrays: Mapping[str, NDArray[Any]], task: Task) -> int:
    """Return how many numbers a model gives for a sample (for each token, if targets are tokens); 0 if only the task knows."""
    targets = arrays["labels"]
    if task.target == "classes":
        return int(targets.max()) + 1
    if task.target == "tokens":
        return max(int(array.max()) for array in arrays.values()) + 1
    return 0 if task.target == "own" else prod(targets.shape[1:])


def _targets(value: Any, what: str, dtype: np.dtype[Any], task: Task) -> NDArray[Any]:
    """Return targets as the task wants them."""
    if task.target == "classes":
        return _labels(value, what)
    array = _numbers(value, what.replace("labels", "targets"))
    if task.target == "tokens" or (task.target == "own" and array.dtype.kind in "biu"):
        return _tokens(array, what)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if task.target == "labels" and (array.ndim != 2 or not ((array == 0) | (array == 1)).all()):
        raise ConfigError(f"{what} that are not a 0 or 1 for each label, [N, L] (their shape is {list(array.shape)}).")
    return _cast(array, dtype, what)


def _tokens(array: NDArray[Any], what: str) -> NDArray[np.int64]:
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.floor(array))).all():
        raise ConfigError(f"{what} that are not integers, and tokens are.")
    return np.ascontiguousarray(array, np.int64)


def _as_raw(returned: Any, name: str) -> RawData:
    if isinstance(returned, RawData):
        return returned
    if isinstance(returned, tuple | list) and len(returned) in (2, 4):
        return RawData(*returned)
    what = f"{len(returned)} things" if isinstance(returned, tuple | list) else f"a {type(returned).__name__}"
    raise ConfigError(
        f"data.name: {name!r} returns {what}; return (X, y), or (X, y, X_test, y_test), or a RawData: arrays, tensors, lists, data "
        "frames or sparse matrices; or a torch Dataset of map style, see byzdist.problem.data.Lazy."
    )


def _array(value: Any, what: str) -> NDArray[Any]:
    """Return a numpy array of an array of any kind."""
    if np.ma.isMaskedArray(value) and np.ma.getmaskarray(value).any():
        raise ConfigError(f"{what} of which some are masked. Fill them, or leave these samples out.")
    if hasattr(value, "detach"):  # a torch tensor, on any device
        if value.is_meta:
            raise ConfigError(f"{what} that have no values: they are on the device 'meta'.")
        value = value.detach().cpu().to_dense().resolve_conj()
        if value.dtype.itemsize == 2 and value.is_floating_point():  # numpy has no bfloat16
            value = value.float()
        value = value.numpy()
    elif hasattr(value, "toarray"):  # a scipy sparse matrix or array
        value = value.toarray()
    elif hasattr(value, "to_numpy"):  # a data frame or series of pandas, polars and others
        value = value.to_numpy()
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{what} that are not an array: {error}. Do all samples have one shape?") from error


def _numbers(value: Any, what: str) -> NDArray[Any]:
    array = _array(value, what)
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind in "OUS":
        try:
            return array.astype(np.float64)
        except (ValueError, TypeError):
            raise ConfigError(
                f"{what} that are not numbers: {_first_odd(array, value)}. Code it as numbers first."
            ) from None
    raise ConfigError(f"{what} of the type {array.dtype}, which are not real numbers. Convert them first.")


def _first_odd(array: NDArray[Any], value: Any) -> str:
    """Return the first entry that is not a number, and where it is."""
    columns = list(getattr(value, "columns", ()))
    for place, entry in np.ndenumerate(array):
        try:
            float(entry)
        except (ValueError, TypeError):
            column = f"column {columns[place[1]]!r}" if len(place) == 2 and len(columns) == array.shape[1] else ""
            return f"{str(entry)[:40]!r} at {column or list(place)}"
    return "a mixture"


def _labels(value: Any, what: str) -> NDArray[np.int64]:
    array = _array(value, what)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    is_matrix = array.ndim == 2 and array.dtype.kind in "biuf"
    if is_matrix and ((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all():
        raise ConfigError(f"{what} of shape {array.shape}, one-hot. Give the classes themselves: y.argmax(1).")
    if array.ndim > 1:
        raise ConfigError(
            f"{what} of shape {array.shape}; want one class for each sample, [N]. For several labels of 0 or 1 each set "
            "task=multi_label, for several numbers task=regression."
        )
    if array.dtype.kind == "O":
        array = _from_objects(array)
    if array.dtype.kind in "biu":
        if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise ConfigError(f"{what} up to {int(array.max())}; want the integers 0, 1, ... of its classes.")
        return array.astype(np.int64)
    numbering = "number the classes: np.unique(y, return_inverse=True)[1]"
    if array.dtype.kind == "f":
        odd = array[~(np.isfinite(array) & (array == np.floor(array)) & (np.abs(array) < 2.0**62))]
        if not odd.size:
            return array.astype(np.int64)
        raise ConfigError(
            f"{what} such as {odd.flat[0]!s}, not the integers 0, 1, ... of classes. Are these numbers to predict? Set "
            f"task=regression. If they name classes, {numbering}."
        )
    example = f" such as {array.flat[0]!r}" if array.size else ""
    raise ConfigError(f"{what}{example}, not the integers 0, 1, ... of its classes; {numbering}.")


def _from_objects(array: NDArray[Any]) -> NDArray[Any]:
    if array.size and not any(isinstance(entry, str) for entry in array.flat):
        try:
            return array.astype(np.float64)
        except (ValueError, TypeError):
            pass
    return array


def _cast(array: NDArray[Any], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(array, dtype)
    if not np.isfinite(cast).all():
        if np.isfinite(array).all():
            largest = float(np.abs(array.astype(np.float64, copy=False)).max())
            raise ConfigError(f"{what} up to {largest:g}, too large for {dtype}. Scale the data, or use dtype=float64.")
        place = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
        raise ConfigError(f"{what} that are NaN or infinite, the first at {place}. Clean the data first.")
    return cast


def _check_test(arrays: dict[str, NDArray[Any]], name: str, task: Task) -> None:
    if "test_features" not in arrays:
        return
    if arrays["test_features"].shape[1:] != arrays["features"].shape[1:]:
        raise ConfigError(f"data.name: {name!r} gives test features of another shape than its training features.")
    if arrays["test_labels"].shape[1:] != arrays["labels"].shape[1:]:
        raise ConfigError(f"data.name: {name!r} gives test targets of another shape than its training targets.")
    if task.target != "classes":
        return
    if arrays["test_labels"].min() < 0 or arrays["test_labels"].max() > arrays["labels"].max():
        raise ConfigError(
            f"data.name: {name!r} has test labels from {arrays['test_labels'].min()} to {arrays['test_labels'].max()}, not the "
            f"integers 0 to {arrays['labels'].max()} of its training classes."
        )


def _check_classes(labels: NDArray[np.int64], name: str, whole: bool) -> None:
    held = np.unique(labels)
    lowest, highest = int(held[0]), int(held[-1])
    if lowest >= 0 and not whole:
        return
    if len(held) == 1 and whole:
        raise ConfigError(f"data.name: {name!r} has one class only, label {lowest}; there is nothing to learn.")
    if lowest < 0 or highest + 1 > 2 * len(held):
        pair = f"labels {lowest} and {highest}" if len(held) == 2 else f"{len(held)} labels from {lowest} to {highest}"
        doubt = " If they are numbers to predict, set task=regression." if len(held) > PLAUSIBLE_CLASSES else ""
        raise ConfigError(
            f"data.name: {name!r} has {pair}, not the integers 0, 1, ... of its classes; number the classes: "
            f"np.unique(y, return_inverse=True)[1].{doubt}"
        )


def advice(labels: NDArray[np.int64], classes: int) -> str | None:
    """Return a warning about labels that work but are probably not meant so; None if there is none."""
    counts = np.bincount(labels, minlength=classes)
    empty = np.flatnonzero(counts == 0).tolist()
    if empty == [0]:
        return f"no sample has label 0: they are 1 to {classes - 1}, and the model learns a class that nobody holds. Take 1 from each."
    if empty:
        return (
            f"classes {', '.join(map(str, empty[:8]))}{', ...' if len(empty) > 8 else ''} have no sample; to leave them out, number "
            "the others: np.unique(y, return_inverse=True)[1]."
        )
    if classes > PLAUSIBLE_CLASSES and 2 * classes > len(labels):
        return f"{len(labels)} samples are of {classes} classes. If their labels are numbers to predict, set task=regression."
    return None
