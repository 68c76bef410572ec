"""Names for the pieces of an experiment: rules, attacks, compressors, methods, models, data sets."""

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, Union, cast
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, create_model
from pydantic_core import CoreSchema, PydanticSerializationUnexpectedValue, core_schema

from byzdist import given
from byzdist.errors import ConfigError, describe_error
from byzdist.words import closest, did_you_mean, explain, shown

Named: TypeAlias = Union[str, Mapping[str, Any], "Spec"]
"""How a piece may be given: its name, {name: ..., parameters}, or a spec."""

T = TypeVar("T", bound=Callable[..., Any])
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spec:
    """What a configuration says of a piece: its name and its parameters. It never changes; `plus` and `without` make another spec.

    In a configuration it is ``{name: ..., parameters}``, or the name alone.

    Attributes:
        name: a registered name or ``module.path:Name``; empty if none is given, which `Registry.check` refuses.
        parameters: the keyword arguments of the piece, and keys of its section that are not the piece's own, such as ``data.split``.
        checked: whether `Registry.check` made it, so that it is complete.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    checked: bool = field(default=False, compare=False, repr=False)

    @classmethod
    def of(cls, named: Named) -> "Spec":
        """Return the spec of a piece, given in any form."""
        if isinstance(named, Spec):
            return named
        if isinstance(named, str):
            return cls(named)
        parameters = dict(named)
        name = parameters.pop("name", None)
        return cls(name if isinstance(name, str) else "", parameters)

    def plus(self, **parameters: Any) -> "Spec":
        """Return the spec with these parameters added."""
        return replace(self, parameters={**self.parameters, **parameters})

    def without(self, *keys: str) -> "Spec":
        """Return the spec without some of the parameters."""
        return replace(self, parameters={key: self.parameters[key] for key in self.parameters if key not in keys})

    def plain(self) -> dict[str, Any]:
        """Return ``{name: ..., parameters}``, as it is written."""
        values = {key: value.plain() if isinstance(value, Spec) else value for key, value in self.parameters.items()}
        return {"name": self.name, **values}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let a section of the configuration have keys that hold specs."""
        mapping = core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema())
        given = core_schema.no_info_before_validator_function(
            lambda value: {"name": value} if isinstance(value, str) else value, mapping
        )
        return core_schema.no_info_after_validator_function(
            cls.of, given, serialization=core_schema.plain_serializer_function_ser_schema(_plain)
        )


def _plain(value: object) -> dict[str, Any]:
    """Serialize a spec; a union with other types goes on to those."""
    if not isinstance(value, Spec):
        raise PydanticSerializationUnexpectedValue("not a spec")
    return value.plain()


@dataclass(frozen=True)
class RunFacts:
    """What a piece can check itself against: facts of the run that it will be part of.

    Attributes:
        clients: n.
        byzantine: how many of the clients are Byzantine, the last ones.
        declared: how many Byzantine clients the operator declares.
        cohorts: the sizes of the cohorts whose replies the rule aggregates, by the keys that set them, "full_cohort" and "cohort".
        vectors: by the same keys, how many vectors the pre-aggregation steps leave of these replies.
    """

    clients: int
    byzantine: int
    declared: int
    cohorts: Mapping[str, int]
    vectors: Mapping[str, int]

    @property
    def honest(self) -> range:
        """The ids of the honest clients."""
        return range(self.clients - self.byzantine)


def checks_run(check: Callable[..., None]) -> Callable[[T], T]:
    """Return the decorator that gives a function a check, with which it refuses runs that it does not fit.

    A class has a static or class method ``check_run`` instead.

    Args:
        check: called with (run, key, the piece's parameters by name), where ``run`` is a `RunFacts` and ``key`` is where the
            configuration names the piece; raises a ConfigError.
    """

    def mark(piece: T) -> T:
        piece.check_run = check  # type: ignore[attr-defined]
        return piece

    return mark


def import_all(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that a new file's decorators are seen without being listed anywhere."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


_trusted: ContextVar[Collection[str] | None] = ContextVar("trusted", default=None)


@contextmanager
def importing_only(names: Collection[str]) -> Iterator[None]:
    """Refuse to import what a configuration names as ``module:Name``, except these names, because somebody else wrote it."""
    token = _trusted.set(names)
    try:
        yield
    finally:
        _trusted.reset(token)


class Registry(Generic[T]):
    """The registered functions or classes of one kind, and the check of the parameters that a configuration gives them.

    A piece's keyword-only arguments are its parameters; their annotations hold types and ranges
    (``Annotated[int, Ge(1)]``). A name ``module.path:Name`` stands for an object of the user's own.

    Args:
        kind: what is registered, in words.
        arguments: the positional arguments with which it is called.

    Attributes:
        aliases: other words of the field for registered names; they work like the names.
    """

    _all: ClassVar[list["Registry[Any]"]] = []  # to recognise a name of another kind

    def __init__(self, kind: str, *arguments: str) -> None:
        self.kind = kind
        self.aliases: dict[str, str] = {}
        self._arguments = arguments
        self._entries: dict[str, T] = {}
        self._models: WeakKeyDictionary[T, type[BaseModel]] = WeakKeyDictionary()
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
        """Return the registered name that an alias stands for, any other name as it is; log an alias if ``key`` says where it is."""
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
        if given.is_given(name):
            return cast(T, given.given_object(name, key))
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
        except Exception as error:  # a user's own module may raise anything
            raise ConfigError(f"{key}: cannot import {name!r}: {describe_error(error)}") from error
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

    def check(self, named: Named, key: str) -> Spec:
        """Return the complete spec of a piece: its registered name, the parameters given, checked, and the defaults of the others.

        What has been checked before is returned as it is.

        Raises:
            ConfigError: naming ``key`` and the parameter, for an unknown name, a wrong type or a value out of range.
        """
        if not isinstance(named, str | Mapping | Spec):
            raise ConfigError(f"{key}: must be a name or a mapping {{name: ..., parameters}} (it is {shown(named)}).")
        spec = Spec.of(named)
        if spec.checked:
            return spec
        if not spec.name:
            raise ConfigError(f"{key}.name: this key is required. Known: {', '.join(self)}.")
        model = self._model(spec.name, key)
        try:
            checked = model.model_validate(dict(spec.parameters))
        except ValidationError as error:
            raise explain(error, key, spec.parameters, list(model.model_fields)) from None
        complete = {word: getattr(checked, word) for word in model.model_fields}
        return Spec(self.canonical(spec.name), complete, checked=True)

    def check_run(self, spec: Spec, run: RunFacts, key: str) -> None:
        """Let a piece check itself against the run, if it has a check; see `checks_run`.

        Raises:
            ConfigError: what the piece says.
        """
        check = getattr(self.get(spec.name, key), "check_run", None)
        try:
            if check is not None:
                check(run, key, **spec.parameters)
        except ConfigError:
            raise
        except Exception as error:  # a user's own piece may raise anything
            raise ConfigError(f"{key}: the check of {spec.name!r} ended with {describe_error(error)}.") from error

    def bind(self, named: Named, key: str) -> Callable[..., Any]:
        """Return the piece with its checked parameters set, to be called with the positional arguments."""
        spec = self.check(named, key)
        return partial(self.get(spec.name, key), **spec.parameters)

    def build(self, named: Named, *arguments: Any, key: str) -> Any:
        """Call the piece with these positional arguments and its checked parameters; return the result."""
        return self.bind(named, key)(*arguments)

    def _model(self, name: str, key: str) -> type[BaseModel]:
        """Return the model that checks the parameters of ``name``; it is made once, because making it takes far longer than a check."""
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
            words = [word for word, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY]
            memory = (
                ["memory"] if self._arguments and getattr(entry, "remembers", False) else []
            )  # a rule that remembers
            signature.bind(*self._arguments, *memory, **dict.fromkeys(words))
        except (TypeError, ValueError, NameError) as error:
            call = ", ".join([*self._arguments, "key=value, ..."])
            raise ConfigError(
                f"{key}: {name!r} cannot be called with ({call}), as any {self.kind} is: {error}."
            ) from error
        return signature


_STRICT = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
)
