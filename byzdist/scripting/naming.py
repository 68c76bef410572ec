"""Names for the objects that a script passes: an import path if any process can import the object, else with a digest of its source."""

import ast
import hashlib
import importlib
import inspect
import re
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from byzdist.given import name_of

_PLAIN = (str, bytes, bool, int, float, complex, type(None))
_LENGTH = 12  # hexadecimal digits of a digest


class Objects:
    """The objects passed to one call that YAML cannot express.

    Attributes:
        by_name: for each name, the object or its stand-in, for the registries.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Callable[..., Any]] = {}

    def name_of(self, thing: Any, stand_in: Callable[..., Any] | None = None) -> str:
        """Return a name for an object in the configuration.

        Args:
            thing: the object.
            stand_in: a function to call in place of the object, if a registry cannot use the object itself.
        """
        if stand_in is None and (path := import_path(thing)) is not None:
            return path
        place, told = _place(thing), digest(thing)
        name, number = name_of(place, told), 1
        while name in self.by_name:  # two lambdas in one line
            number += 1
            name = name_of(place, f"{told}-{number}")
        self.by_name[name] = stand_in or thing
        return name


def import_path(thing: Any) -> str | None:
    """Return ``module:Name`` if any process can import this very object by that name, else None."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    return f"{module}:{name}" if found is thing else None


def _place(thing: Any) -> str:
    """Return ``module:qualname`` of a function or class, or of the class of anything else."""
    while isinstance(thing, partial):
        thing = thing.func
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def digest(thing: Any) -> str:
    """Return a digest of an object's source, numbers and shapes; it is the same in every process that runs the same script."""
    total = hashlib.sha256()
    _feed(thing, total.update)
    return total.hexdigest()[:_LENGTH]


def _feed(thing: Any, feed: Callable[[bytes], None]) -> None:
    feed(type(thing).__name__.encode())
    if isinstance(thing, _PLAIN):
        feed(repr(thing).encode())
    elif isinstance(thing, nn.Module):
        _feed_module(thing, feed)
    elif (array := _as_array(thing)) is not None:
        feed(f"{array.shape} {array.dtype}".encode())
        feed(repr(array).encode() if array.dtype.kind == "O" else np.ascontiguousarray(array).tobytes())
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            _feed(key, feed)
            _feed(value, feed)
    elif isinstance(thing, list | tuple | set | frozenset):
        for member in thing if isinstance(thing, list | tuple) else sorted(thing, key=repr):
            _feed(member, feed)
    elif not isinstance(thing, type) and callable(inner := getattr(thing, "__wrapped__", None)):  # a Rule, say
        _feed(inner, feed)
    elif isinstance(thing, partial):
        _feed((thing.func, thing.args, thing.keywords), feed)
    elif isinstance(thing, types.MethodType):
        _feed((thing.__func__, thing.__self__), feed)
    elif isinstance(thing, types.FunctionType):
        _feed_function(thing, feed)
    elif is_dataclass(thing) and not isinstance(thing, type):
        _feed({field.name: getattr(thing, field.name) for field in fields(thing)}, feed)
    else:
        feed(_source(thing if isinstance(thing, type) else type(thing)).encode())
        if hasattr(thing, "__len__") and not isinstance(thing, type):
            feed(str(len(thing)).encode())


def _feed_function(function: types.FunctionType, feed: Callable[[bytes], None]) -> None:
    """Feed its source, its defaults, and the plain values among its closure's variables."""
    feed(_source(function).encode())
    _feed([value for value in (function.__defaults__ or ()) if isinstance(value, _PLAIN)], feed)
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    _feed([value for value in cells if isinstance(value, _PLAIN)], feed)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - it raises
    except ValueError:
        return False
    return True


def _feed_module(module: nn.Module, feed: Callable[[bytes], None]) -> None:
    """Feed its layers and shapes, and the source of a user's own classes, but not its weights: they may differ at a resume."""
    feed(repr(module).encode())
    shapes = [(name, () if is_lazy(value) else tuple(value.shape)) for name, value in module.state_dict().items()]
    feed(repr(shapes).encode())
    own = {type(part) for part in module.modules() if not type(part).__module__.startswith("torch.")}
    for kind in sorted(own, key=lambda kind: kind.__qualname__):
        feed(_source(kind).encode())


def _as_array(thing: Any) -> NDArray[Any] | None:
    """Return the numbers of an array, a tensor, a data frame, a sparse matrix or a list of numbers; None for anything else."""
    if isinstance(thing, Tensor):
        if thing.is_meta:
            return None
        thing = thing.detach().cpu().to_dense()
        thing = (thing.float() if thing.is_floating_point() and thing.itemsize == 2 else thing).numpy()
    elif hasattr(thing, "toarray") or hasattr(thing, "to_numpy"):
        thing = thing.toarray() if hasattr(thing, "toarray") else thing.to_numpy()
    elif isinstance(thing, list) and thing and isinstance(thing[0], int | float | list):
        with suppress(TypeError, ValueError):
            thing = np.asarray(thing, dtype=np.float64)
    return np.asarray(thing) if isinstance(thing, np.ndarray | np.generic) else None


def _source(thing: Any) -> str:
    """Return the source of a function or class, or its compiled code if there is no source, as at an interactive prompt."""
    code = getattr(thing, "__code__", None)
    try:
        return _lambda(thing.__code__) if getattr(thing, "__name__", "") == "<lambda>" else inspect.getsource(thing)
    except (OSError, TypeError, SyntaxError):
        return _compiled(code) if code is not None else f"{thing.__module__}:{thing.__qualname__}"


def _lambda(code: types.CodeType) -> str:
    """Return a lambda's source without the statement around it; if several begin in its line, that of all, and its compiled code."""
    text = "".join(inspect.findsource(code)[0])
    found = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno
    ]
    if not found:
        raise OSError("the source no longer exists")
    return "".join(ast.unparse(node) for node in found) + (_compiled(code) if len(found) > 1 else "")


def _compiled(code: types.CodeType) -> str:
    constants = [_compiled(part) if isinstance(part, types.CodeType) else repr(part) for part in code.co_consts]
    return re.sub(r" at 0x\w+", "", repr((code.co_code.hex(), code.co_names, code.co_varnames, constants)))
