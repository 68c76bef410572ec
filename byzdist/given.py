"""Objects that no import finds, such as a notebook's lambda, under the names by which a configuration has them.

Such a name is ``module:qualname#digest``. The digest is of the object's source, so a run never goes on with another object.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from byzdist.errors import ConfigError

_objects: ContextVar[Mapping[str, Callable[..., Any]]] = ContextVar("given", default=MappingProxyType({}))
_DIGEST = "#"


@contextmanager
def giving(objects: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Let these names stand for these objects."""
    token = _objects.set({**_objects.get(), **objects})
    try:
        yield
    finally:
        _objects.reset(token)


def name_of(thing: str, digest: str) -> str:
    """Return the name of an object; ``thing`` is its ``module:qualname``."""
    return f"{thing}{_DIGEST}{digest}"


def is_given(name: str) -> bool:
    """Return whether a name stands for an object that is given, or was given once."""
    return _DIGEST in name


def find(name: str, key: str) -> Callable[..., Any]:
    """Return the object of a name; ``key`` is where the configuration has it.

    Raises:
        ConfigError: if it is not given.
    """
    found = _objects.get().get(name)
    if found is None:
        raise ConfigError(
            f"{key}: {name!r} is an object that byzdist.train was given, and a digest of its source. It is not given now, or its source "
            "has changed: call byzdist.train with the very same object, and with resume=True to go on with a run."
        )
    return found
