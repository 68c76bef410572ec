"""Names for the pieces of an experiment: rules, attacks, compressors, methods, models, data sets."""

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from byzdist.errors import ConfigError, told
from byzdist.words import closest, did_you_mean, explain

Spec = dict[str, Any]  # {name: a registered name, then its parameters}
T = TypeVar("T", bound=Callable[..., Any])
log = logging.getLogger(__name__)


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

    Attributes:
        aliases: other words of the field for registered names; they work as the names do.
    """

    _all: ClassVar[list["Registry[Any]"]] = []  # to tell of a name that it is one of another kind

    def __init__(self, kind: str, *arguments: str) -> None:
        self.kind = kind
        self.aliases: dict[str, str] = {}
        self._arguments = arguments
        self._entries: dict[str, T] = {}
        self._models: dict[T, type[BaseModel]] = {}
        self._all.append(self)

    def register(self, name: str, *aliases: str) -> Callable[[T], T]:
        """Return the decorator that registers a function or class under ``name``, which ``aliases`` stand for as well."""

        def add(entry: T) -> T:
            for word in (name, *aliases):
                assert word not in self._entries and word not in self.aliases, (
                    f"{self.kind} {word!r} is registered twice"
                )
            self._entries[name] = entry
            self.aliases |= dict.fromkeys(aliases, name)
            return entry

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.aliases

    def canonical(self, name: str, key: str | None = None) -> str:
        """Return the registered name that an alias stands for, any other name as it is; say so where ``key`` names the place."""
        known = self.aliases.get(name, name)
        if known != name and key is not None:
            log.warning("%s: %r is another word for %r, which the run's files use.", key, name, known)
        return known

    def get(self, name: str, key: str | None = None) -> T:
        """Return what is registered under ``name``; ``key`` is where the configuration names it, for the error."""
        entry = self._entries.get(self.canonical(name))
        if entry is not None:
            return entry
        key = key or self.kind
        if ":" in name:
            return self._import(name, key)
        raise ConfigError(f"{key}: unknown {self.kind} {name!r}.{self._hint(name)}")

    def _hint(self, name: str) -> str:
        close = closest(name, [*self._entries, *self.aliases])
        if close is not None:
            return did_you_mean(self.canonical(close), [self.canonical(close)])
        kinds = [other.kind for other in self._all if name in other]
        if kinds:
            return f" It is the name of {'an' if kinds[0][0] in 'aeiou' else 'a'} {kinds[0]}."
        own = f" One of your own is written {':'.join(name.rsplit('.', 1))!r}." if "." in name else ""
        return did_you_mean(name, list(self._entries)) + own

    def _import(self, name: str, key: str) -> T:
        module_name, _, attribute = name.partition(":")
        if (trusted := _trusted.get()) is not None and name not in trusted:
            raise ConfigError(
                f"{key}: {name!r} is code that would be imported and run. Add --trust if you trust whoever wrote this configuration."
            )
        try:
            found: T = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{key}: cannot import {name!r}: {error}. Is it beside the configuration, or on PYTHONPATH?"
            ) from error
        except Exception as error:  # whatever a user's own module raises
            raise ConfigError(f"{key}: cannot import {name!r}: {told(error)}") from error
        if not callable(found):
            raise ConfigError(f"{key}: {name!r} is not a function or class.")
        return found

    def describe(self, name: str) -> str:
        """Return the first line of the docstring of ``name``."""
        return self.document(name).split("\n")[0]

    def document(self, name: str) -> str:
        """Return the docstring of ``name``."""
        return inspect.getdoc(self.get(name)) or ""

    def parameters(self, name: str, key: str) -> dict[str, inspect.Parameter]:
        """Return the keyword-only arguments of ``name``, annotations evaluated.

        Raises:
            ConfigError: naming ``key``, for an unknown name or a callable that does not fit.
        """
        found = self._signature(name, key).parameters
        return {word: parameter for word, parameter in found.items() if parameter.kind is parameter.KEYWORD_ONLY}

    def check(self, name: str, parameters: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Return the complete parameters of ``name``: those given, checked, and the defaults of the others.

        Raises:
            ConfigError: naming ``key`` and the parameter, for an unknown name, a wrong type or a value out of range.
        """
        model = self._model(name, key)
        try:
            checked = model.model_validate(dict(parameters))
        except ValidationError as error:
            raise explain(error, key, parameters, list(model.model_fields)) from None
        return {name: getattr(checked, name) for name in model.model_fields}

    def _model(self, name: str, key: str) -> type[BaseModel]:
        """Return what checks the parameters of ``name``; it is made once, because that takes far longer than a check."""
        entry = self.get(name, key)
        if entry not in self._models:
            fields = {
                word: (Any if p.annotation is p.empty else p.annotation, ... if p.default is p.empty else p.default)
                for word, p in self.parameters(name, key).items()
            }
            self._models[entry] = create_model("Parameters", __config__=_STRICT, **fields)  # type: ignore[call-overload]
        return self._models[entry]

    def _signature(self, name: str, key: str) -> inspect.Signature:
        entry = self.get(name, key)
        try:
            signature = inspect.signature(entry, eval_str=True)
            signature.bind_partial(*self._arguments)
        except (TypeError, ValueError, NameError) as error:
            call = ", ".join([*self._arguments, "key=value, ..."])
            raise ConfigError(f"{key}: {name!r} is no {self.kind}, which is called with ({call}): {error}.") from error
        return signature


_STRICT = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
)
