"""Objects that cannot be imported, such as a notebook's lambda, and the names that a configuration has for them.

Such a name is ``module:qualname#digest``. The digest is of the object's source, so a run is never resumed with another object.
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
    """Have `find` return these objects for these names."""
    token = _objects.set({**_objects.get(), **objects})
    try:
        yield
    finally:
        _objects.reset(token)


def name_of(thing: str, digest: str) -> str:
    """Return the name of an object; ``thing`` is its ``module:qualname``."""
    return f"{thing}{_DIGEST}{digest}"


def is_given(name: str) -> bool:
    """Return whether a name has the form of the name of a given object, even if that object is not given now."""
    return _DIGEST in name


def given_object(name: str, key: str) -> Callable[..., Any]:
    """Return the object with a name; ``key`` is the configuration key that has the name.

    Raises:
        ConfigError: if no such object is given.
    """
    found = _objects.get().get(name)
    if found is None:
        raise ConfigError(
            f"{key}: {name!r} is an object that byzdist.train was given, with a digest of its source. It is not given now, or its source "
            "has changed: call byzdist.train with the very same object, and with resume=True to continue a run."
        )
    return found
