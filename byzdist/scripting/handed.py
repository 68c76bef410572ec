"""Turns the objects that a script passes (modules, arrays, functions) into sections of a configuration."""

import copy
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from byzdist.errors import ConfigError
from byzdist.problem.data import Lazy, RawData
from byzdist.problem.task import Batch, Model, Task, flat_logits, output_of
from byzdist.problem.tasks.classification import CLASSIFICATION
from byzdist.problem.tasks.regression import regression
from byzdist.registry import Spec
from byzdist.scripting.naming import Objects
from byzdist.scripting.pieces import Piece

_OF_CLASSES = (F.cross_entropy, nn.CrossEntropyLoss, F.nll_loss, nn.NLLLoss)
_OF_NUMBERS = (
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss),
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
)


def model(given: Any, objects: Objects) -> Any:
    """Return the model section for a module, or for a function or class that makes one; any other value is kept.

    A module is copied, so the caller's does not change.
    """
    if isinstance(given, nn.Module):
        return objects.name_of(given, lambda feature_shape, classes: copy.deepcopy(given))
    if not callable(given) or isinstance(given, Spec | Piece):
        return plain(given, objects)
    if _takes(given, 0):
        return objects.name_of(given, lambda feature_shape, classes: given())
    return objects.name_of(given)


def data(given: Any, objects: Objects) -> Any:
    """Return the data section for arrays, a Dataset or a function; a name or a mapping is kept.

    Args:
        given: (X, y), or (X, y, X_test, y_test), or ((X, y), (X_test, y_test)); a Dataset, a DataLoader, a `Lazy`, or a pair of these
            for training and test; a function without arguments that returns any of these; a function of a client's id, for private
            data; a name or a mapping as in YAML.
        objects: gives the object its name in the configuration.

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(given, str | Mapping | Spec | Piece):
        return plain(given, objects)
    if isinstance(given, tuple | list):
        parts = tuple(given)
        if len(parts) == 2 and all(isinstance(part, tuple) and len(part) == 2 for part in parts):
            parts = (*parts[0], *parts[1])
        return objects.name_of(given, lambda: parts)
    if isinstance(given, RawData | Lazy | TorchDataset | DataLoader):
        return objects.name_of(given, lambda: given)
    if callable(given):
        if _takes(given, 1):
            return {"name": objects.name_of(given), "where": "worker"}
        return objects.name_of(given)
    raise ConfigError(
        f"data: an object of type {type(given).__name__} cannot be used. Give (X, y), a torch Dataset, a name, or a function that "
        "returns one of these."
    )


def task(given: Any, objects: Objects) -> Any:
    """Return the task section for a `Task` or a loss; a name or a mapping is kept.

    A loss is a function or module of (outputs, targets), such as torch's, or a function of (model, batch).
    """
    if isinstance(given, str | Mapping | Spec | Piece):
        return plain(given, objects)
    if isinstance(given, Task):
        return objects.name_of(given, lambda: given)
    if not callable(given):
        raise ConfigError(
            f"loss: an object of type {type(given).__name__} cannot be used. Give a function (outputs, targets), a Task, or a name."
        )
    if not isinstance(given, nn.Module) and _takes(given, 0):  # a function that returns a task, as in YAML
        return objects.name_of(given)
    if (name := _registered(given)) is not None:
        return name
    made = _task_of(given)
    return objects.name_of(given, lambda: made)


def _task_of(loss: Callable[..., Any]) -> Task:
    if next(iter(_parameters(loss)), "") == "model":
        return Task(loss)
    if _is_one_of(loss, _OF_NUMBERS):
        return Task(partial(_of_numbers, loss), regression().metrics, "numbers")
    if _is_one_of(loss, _OF_CLASSES):
        return Task(partial(_of_batch, loss), CLASSIFICATION.metrics, "classes")
    return Task(partial(_of_batch, loss))


def _of_batch(loss: Callable[..., Any], model: Model, batch: Batch) -> Any:
    inputs, targets = batch
    return loss(output_of(model, inputs), targets)


def _of_numbers(loss: Callable[..., Any], model: Model, batch: Batch) -> Any:
    inputs, targets = batch
    output = output_of(model, inputs)
    # torch's losses would compare a column of outputs with all targets, by broadcasting
    return loss(flat_logits(output) if targets.ndim == 1 else output, targets)


def _is_one_of(loss: Any, kinds: Sequence[Any]) -> bool:
    return any(loss is kind or isinstance(kind, type) and isinstance(loss, kind) for kind in kinds)


def _registered(loss: Any) -> str | None:
    """Return the name of the registered task with this very loss: it has closed forms, and YAML can name it."""
    if loss is F.cross_entropy or isinstance(loss, nn.CrossEntropyLoss) and _is_default(loss, nn.CrossEntropyLoss()):
        return "classification"
    if loss is F.mse_loss or isinstance(loss, nn.MSELoss) and _is_default(loss, nn.MSELoss()):
        return "regression"
    return None


def _is_default(loss: nn.Module, default: nn.Module) -> bool:
    words = ("reduction", "weight", "ignore_index", "label_smoothing")
    return all(
        getattr(loss, word, None) is getattr(default, word, None) or getattr(loss, word) == getattr(default, word)
        for word in words
    )


def plain(given: Any, objects: Objects) -> Any:
    """Return any value of a configuration in a form that YAML can hold, with names for functions and classes."""
    if isinstance(given, Piece):
        given = given()
    if isinstance(given, Spec):
        given = given.plain()
    if isinstance(given, Mapping):
        return {key: plain(value, objects) for key, value in given.items()}
    if isinstance(given, list | tuple | range):
        return [plain(value, objects) for value in given]
    if isinstance(given, np.generic):
        return given.item()
    if isinstance(given, os.PathLike):
        return os.fspath(given)
    return objects.name_of(given) if callable(given) else given


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Return whether a function can be called with exactly ``count`` arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
