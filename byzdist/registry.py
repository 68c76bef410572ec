"""Names for the pieces of an experiment: rules, attacks, compressors, methods, models, data sets."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, ValidationError, create_model

from byzdist.errors import ConfigError

T = TypeVar("T", bound=Callable[..., Any])


def did_you_mean(word: str, known: list[str]) -> str:
    """Return a hint such as " Did you mean 'krum'?", or the list of what is known where nothing is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(known))}."


def import_all(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that a new file's decorators are seen without being listed anywhere."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


class Registry(Generic[T]):
    """The registered functions or classes of one kind, and the check of the parameters that a configuration gives them.

    Keyword-only arguments of what is registered are its parameters; their annotations hold types and ranges
    (``Annotated[int, Ge(1)]``). A name ``module.path:Name`` stands for an object of the user's own.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return the decorator that registers a function or class under ``name``."""

        def add(entry: T) -> T:
            assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
            self._entries[name] = entry
            return entry

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def get(self, name: str, key: str | None = None) -> T:
        """Return what is registered under ``name``; ``key`` is where the configuration names it, for the error."""
        if name in self._entries:
            return self._entries[name]
        key = key or self.kind
        if ":" in name:
            return self._import(name, key)
        raise ConfigError(f"{key}: unknown {self.kind} {name!r}.{did_you_mean(name, list(self._entries))}")

    def _import(self, name: str, key: str) -> T:
        module_name, _, attribute = name.partition(":")
        try:
            found: T = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{key}: cannot import {name!r}: {error}. Is its folder on PYTHONPATH?") from error
        if not callable(found):
            raise ConfigError(f"{key}: {name!r} is not a function or class.")
        return found

    def describe(self, name: str) -> str:
        """Return the first line of the docstring of ``name``."""
        return (inspect.getdoc(self._entries[name]) or "").split("\n")[0]

    def check(self, name: str, parameters: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Return the complete parameters of ``name``: those given, checked, and the defaults of the others.

        Raises:
            ConfigError: naming ``key`` and the parameter, for an unknown name, a wrong type or a value out of range.
        """
        entry = self.get(name, key)
        fields = {
            p.name: (Any if p.annotation is p.empty else p.annotation, ... if p.default is p.empty else p.default)
            for p in inspect.signature(entry, eval_str=True).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        model = create_model("Parameters", __config__=_STRICT, **fields)  # type: ignore[call-overload]
        try:
            checked = model(**parameters)
        except ValidationError as error:
            raise ConfigError(explain(error, key, list(fields))) from None
        return {name: getattr(checked, name) for name in fields}


_STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, protected_namespaces=())


def explain(error: ValidationError, key: str, known: list[str]) -> str:
    """Turn the first complaint of pydantic into a line that names the key, the value and the remedy."""
    first = error.errors()[0]
    path = ".".join([key, *(str(part) for part in first["loc"])]).strip(".")
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key.{did_you_mean(str(first['loc'][-1]), known)}"
    if first["type"] == "missing":
        return f"{path}: this key is required."
    return f"{path}: {first['msg']} (it is {first['input']!r})."
