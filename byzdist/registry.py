"""Names for the pieces of an experiment: rules, attacks, compressors, methods, models, data sets."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from pydantic import ConfigDict, ValidationError, create_model

from byzdist.errors import ConfigError, told

T = TypeVar("T", bound=Callable[..., Any])


def did_you_mean(word: str, known: list[str]) -> str:
    """Return a hint such as " Did you mean 'krum'?", or the list of what is known where nothing is close."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(sorted(known))}." if known else " There are no keys here."


def import_all(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that a new file's decorators are seen without being listed anywhere."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


_trusted: ContextVar[Collection[str] | None] = ContextVar("trusted", default=None)


@contextmanager
def importing_only(names: Collection[str]) -> Iterator[None]:
    """Refuse to import what a configuration names as ``module:Name``, but for these names: somebody else wrote it."""
    token = _trusted.set(names)
    try:
        yield
    finally:
        _trusted.reset(token)


class Registry(Generic[T]):
    """The registered functions or classes of one kind, and the check of the parameters that a configuration gives them.

    Keyword-only arguments of what is registered are its parameters; their annotations hold types and ranges
    (``Annotated[int, Ge(1)]``). A name ``module.path:Name`` stands for an object of the user's own.

    Args:
        kind: what is registered, in words.
        arguments: the positional arguments with which it is called.
    """

    def __init__(self, kind: str, *arguments: str) -> None:
        self.kind = kind
        self._arguments = arguments
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
        if (trusted := _trusted.get()) is not None and name not in trusted:
            raise ConfigError(
                f"{key}: {name!r} is code that would be imported and run. Add --trust if you trust whoever wrote this configuration."
            )
        try:
            found: T = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{key}: cannot import {name!r}: {error}. Is its folder on PYTHONPATH?") from error
        except Exception as error:  # whatever a user's own module raises
            raise ConfigError(f"{key}: cannot import {name!r}: {told(error)}") from error
        if not callable(found):
            raise ConfigError(f"{key}: {name!r} is not a function or class.")
        return found

    def describe(self, name: str) -> str:
        """Return the first line of the docstring of ``name``."""
        return (inspect.getdoc(self._entries[name]) or "").split("\n")[0]

    def parameters(self, name: str) -> list[str]:
        """Return the parameters of ``name``, each with its default and the words that it takes besides, such as "scale = 1.0 or auto"."""
        described = []
        for p in self._signature(name, self.kind).parameters.values():
            if p.kind is p.KEYWORD_ONLY:
                default = (
                    " (required)" if p.default is p.empty else " (not set)" if p.default is None else f" = {p.default}"
                )
                words = [word for word in _words(p.annotation) if word != p.default]
                described.append(" or ".join([p.name + default, *words]))
        return described

    def check(self, name: str, parameters: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Return the complete parameters of ``name``: those given, checked, and the defaults of the others.

        Raises:
            ConfigError: naming ``key`` and the parameter, for an unknown name, a wrong type or a value out of range.
        """
        fields = {
            p.name: (Any if p.annotation is p.empty else p.annotation, ... if p.default is p.empty else p.default)
            for p in self._signature(name, key).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        model = create_model("Parameters", __config__=_STRICT, **fields)  # type: ignore[call-overload]
        try:
            checked = model.model_validate(dict(parameters))
        except ValidationError as error:
            raise ConfigError(explain(error, key, parameters, list(fields))) from None
        return {name: getattr(checked, name) for name in fields}

    def _signature(self, name: str, key: str) -> inspect.Signature:
        entry = self.get(name, key)
        try:
            signature = inspect.signature(entry, eval_str=True)
            signature.bind_partial(*self._arguments)
        except (TypeError, ValueError, NameError) as error:
            call = ", ".join([*self._arguments, "key=value, ..."])
            raise ConfigError(f"{key}: {name!r} is no {self.kind}, which is called with ({call}): {error}.") from error
        return signature


def _words(annotation: Any) -> Iterator[str]:
    """Yield the words that a parameter takes, wherever its annotation has a Literal."""
    if get_origin(annotation) is Literal:
        yield from (word for word in get_args(annotation) if isinstance(word, str))
    else:
        for part in get_args(annotation):
            yield from _words(part)


_STRICT = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
)
_SHOULD_BE = "Input should be "
_MAPPING = f"{_SHOULD_BE}a mapping of keys to values"


def explain(error: ValidationError, key: str, given: Mapping[str, Any], known: list[str]) -> str:
    """Turn pydantic's first complaint about ``given`` into a line that names the key, the value and the remedy."""
    first, *others = error.errors()
    path = _path(first, given)
    where = ".".join(filter(None, [key, *path])) or "configuration"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key.{did_you_mean(str(path[-1]), known)}"
    if first["type"] == "missing":
        return f"{where}: this key is required."
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}."
    branches = [first, *(other for other in others if _path(other, given) == path)]  # of a union
    complaints = [_MAPPING if "dict" in b["type"] or "model" in b["type"] else b["msg"] for b in branches]
    wanted = " or ".join(dict.fromkeys(complaint.removeprefix(_SHOULD_BE) for complaint in complaints))
    opening = _SHOULD_BE if complaints[0].startswith(_SHOULD_BE) else ""
    value = repr(first["input"])
    return f"{where}: {opening}{wanted} (it is {value if len(value) <= 80 else value[:77] + '...'})."


def _path(complaint: Any, given: Any) -> list[str]:
    """Return the keys in a complaint's location that lead through ``given``; it names branches of unions as well."""
    path = []
    for depth, part in enumerate(complaint["loc"], 1):
        inside = part in given if isinstance(given, Mapping) else isinstance(given, list) and isinstance(part, int)
        if inside:
            given = given[part]
        if inside or (complaint["type"] == "missing" and depth == len(complaint["loc"])):
            path.append(str(part))
    return path
