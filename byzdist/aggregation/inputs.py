"""The inputs of `aggregate`: a matrix, or a list of inputs of one kind, becomes a matrix; the result becomes one more of that kind."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from byzdist.aggregation.vectors import Workspace, as_tensor
from byzdist.errors import ConfigError


class Given(NamedTuple):
    """Inputs as a matrix.

    Attributes:
        matrix: n x d, a row for each input.
        restore: (result [d], numbers of the rows that were not dropped) -> the result in the form of an input.
    """

    matrix: Tensor
    restore: Callable[[Tensor, Sequence[int]], Any]


def as_given(V: Any, workspace: Workspace) -> Given:
    """Return the inputs as rows: a matrix shares its memory if possible, a list is copied into the workspace.

    Raises:
        ConfigError: for an input of another kind than those that ``aggregate`` names.
    """
    if hasattr(V, "to_numpy"):  # a data frame
        V = V.to_numpy()
    if isinstance(V, list | tuple) and V and isinstance(V[0], Mapping):
        return _of_states(V, workspace)
    if isinstance(V, list | tuple):
        rows = [_tensor(row, torch.float64 if isinstance(row, list | tuple) else None) for row in V]
        matrix, shape = _stacked(rows, workspace), rows[0].shape if rows else torch.Size()
        numpy = bool(V) and isinstance(V[0], np.ndarray)
    else:
        matrix, numpy = _tensor(V), isinstance(V, np.ndarray)
        shape = matrix.shape[1:]
    if matrix.ndim != 2 or not matrix.is_floating_point() or matrix.shape[0] == 0:
        raise ConfigError(
            f"V: n x d of a floating type with n >= 1 is needed (it is {tuple(matrix.shape)}, {matrix.dtype})."
        )
    return Given(matrix, lambda result, _: result.view(shape).numpy() if numpy else result.view(shape))


def _tensor(given: Any, dtype: torch.dtype | None = None) -> Tensor:
    if isinstance(given, np.ma.MaskedArray):
        raise ConfigError("V: a masked array has entries without values; fill them first, with its method filled().")
    if isinstance(given, Tensor) and given.layout != torch.strided:
        raise ConfigError(f"V: dense tensors are needed, and this one is sparse ({given.layout}); use its to_dense().")
    try:
        if isinstance(given, np.ndarray) and min(given.strides, default=0) < 0:
            given = given.copy()  # because torch has no negative strides
        if isinstance(given, np.ndarray) and not given.flags.writeable:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch warns of a read-only array; we only read it
                return torch.as_tensor(given)
        return torch.as_tensor(given, dtype=dtype).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"V: n x d numbers are needed, a tensor, an array or a list of rows, tensors, arrays or state_dicts: {error}"
        ) from None


def _stacked(rows: Sequence[Tensor], workspace: Workspace) -> Tensor:
    """Return equally shaped tensors as the rows of a matrix in the workspace."""
    if not rows:
        return torch.empty(0, 0)
    first = rows[0]
    if first.ndim == 0:
        raise ConfigError("V: n x d numbers are needed, and each input is a single number; write [x] for a row of one.")
    for i, row in enumerate(rows):
        if row.shape != first.shape or row.device != first.device:
            raise ConfigError(
                f"V: n x d numbers are needed, inputs of one shape on one device: input {i} is {tuple(row.shape)} on "
                f"{row.device}, input 0 is {tuple(first.shape)} on {first.device}."
            )
    dtype = reduce(torch.promote_types, {row.dtype for row in rows})
    matrix = _room(workspace, len(rows), first.numel(), dtype, first.device)
    for target, row in zip(matrix, rows, strict=True):
        target.view(first.shape).copy_(row)
    return matrix


def _room(workspace: Workspace, n: int, d: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # numpy has no bfloat16, and a GPU's streams may still use a kept buffer
    if dtype == torch.bfloat16 or device.type != "cpu":
        return torch.empty(n, d, dtype=dtype, device=device)
    return as_tensor(workspace.get("given", n, d, dtype, device))


def _of_states(states: Sequence[Any], workspace: Workspace) -> Given:
    """Return each state_dict's floating entries as one row; the other entries are added when the result is restored."""
    first = states[0]
    entries = [_entries(state, i, first) for i, state in enumerate(states)]
    names = [name for name, entry in entries[0].items() if entry.is_floating_point()]
    if not names:
        raise ConfigError(
            f"V: the state_dicts hold no numbers of a floating type (names: {', '.join(first) or 'none'})."
        )
    sizes = [entries[0][name].numel() for name in names]
    dtype = reduce(torch.promote_types, {entry[name].dtype for entry in entries for name in names})
    devices = {entry[name].device for entry in entries for name in names}
    if len(devices) > 1:
        raise ConfigError(
            f"V: state_dicts on one device are needed (they are on {', '.join(sorted(map(str, devices)))})."
        )
    matrix = _room(workspace, len(states), sum(sizes), dtype, devices.pop())
    for row, entry in zip(matrix, entries, strict=True):
        for part, name in zip(torch.split(row, sizes), names, strict=True):
            part.view(entry[name].shape).copy_(entry[name])

    def restore(result: Tensor, kept: Sequence[int]) -> Any:
        parts = dict(zip(names, torch.split(result, sizes), strict=True))
        made = copy.copy(first) if isinstance(first, dict) else {}
        for name, own in entries[0].items():
            if name in parts:
                value = parts[name].view(own.shape).to(own.dtype, copy=True)
            else:  # counters cannot be averaged; a minority cannot choose the middle one
                value = torch.stack([entries[i][name] for i in kept]).sort(0).values[(len(kept) - 1) // 2]
            made[name] = value.numpy() if isinstance(first[name], np.ndarray | np.generic) else value
        return made

    return Given(matrix, restore)


def _entries(state: Any, number: int, first: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a state_dict's tensors in the order of the first one's names."""
    if not isinstance(state, Mapping):
        raise ConfigError(
            f"V: inputs of one kind are needed: input 0 is a state_dict, input {number} a {type(state).__name__}."
        )
    if state.keys() != first.keys():
        lacking, more = sorted(first.keys() - state.keys()), sorted(state.keys() - first.keys())
        differing = [
            f"{word} {', '.join(names[:3])}" for word, names in (("lacks", lacking), ("also has", more)) if names
        ]
        raise ConfigError(f"V: state_dicts with the same names are needed: input {number} {' and '.join(differing)}.")
    entries = {}
    for name, own in first.items():
        if not isinstance(state[name], Tensor | np.ndarray | np.generic):
            raise ConfigError(
                f"V: input {number}: {name} is neither a tensor nor an array ({type(state[name]).__name__})."
            )
        entry = entries[name] = _tensor(state[name])
        if entry.is_complex():
            raise ConfigError(f"V: input {number}: {name} is complex ({entry.dtype}); real numbers are needed.")
        if entry.shape != own.shape or entry.is_floating_point() != _tensor(own).is_floating_point():
            raise ConfigError(
                f"V: input {number}: {name} is {tuple(entry.shape)}, {entry.dtype}; "
                f"input 0 has {tuple(own.shape)}, {_tensor(own).dtype}."
            )
    return entries
