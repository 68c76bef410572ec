"""Everything that a configuration can set, from the schema and the registries: for `byzdist list`, and for hints at misspelt keys."""

import inspect
import re
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from byzdist.aggregation import PRE, RULES
from byzdist.attacks import ATTACKS
from byzdist.compression import COMPRESSORS
from byzdist.config.schema import Config
from byzdist.config.synonyms import KEYS
from byzdist.loggers import LOGGERS
from byzdist.methods import METHODS
from byzdist.methods.inner_optimizers import INNER
from byzdist.methods.schedules import SCHEDULES
from byzdist.methods.server_optimizers import OPTIMIZERS
from byzdist.participation import AVAILABILITY
from byzdist.problem.data import DATASETS, SPLITS
from byzdist.problem.models import MODELS
from byzdist.problem.tasks import TASKS
from byzdist.registry import Registry, Spec
from byzdist.words import closest, did_you_mean, shown, squeeze

_NEAR = 0.8  # how similar a word must be to a key of another section


@dataclass(frozen=True)
class PieceKind:
    """A kind of registered piece: what it is called, the dotted key under which a configuration names one, and the pieces."""

    title: str
    key: str
    registry: Registry[Any]


KINDS = {
    "method": PieceKind("methods", "method", METHODS),
    "rule": PieceKind("aggregation rules", "aggregation.rule", RULES),
    "pre": PieceKind("pre-aggregation steps", "aggregation.pre", PRE),
    "compression": PieceKind("compressors", "compression", COMPRESSORS),
    "attack": PieceKind("attacks", "attack", ATTACKS),
    "data": PieceKind("data sets", "data", DATASETS),
    "split": PieceKind("splits", "data.split", SPLITS),
    "model": PieceKind("models", "model", MODELS),
    "task": PieceKind("tasks", "task", TASKS),
    "schedule": PieceKind("schedules of the step size", "method.step_size", SCHEDULES),
    "optimizer": PieceKind("server optimizers", "method.server_optimizer", OPTIMIZERS),
    "inner": PieceKind("inner optimizers", "method.inner", INNER),
    "logger": PieceKind("loggers", "metrics.log", LOGGERS),
    "availability": PieceKind("availability models", "clients.availability", AVAILABILITY),
}


@dataclass(frozen=True)
class Setting:
    """One key: what it takes, in words, its default, and what it is for, if that is documented."""

    name: str
    wanted: str
    required: bool
    default: object
    text: str = ""

    def __str__(self) -> str:
        unset = "not set" if self.default is None else shown(self.default)
        return f"{self.wanted} ({'required' if self.required else f'default: {unset}'}){self.text and ': '}{self.text}"


def sections() -> dict[str, type[BaseModel]]:
    """Return the sections of a configuration that have keys of their own; "run" stands for the keys outside sections."""
    found = {name: _present(field.annotation) for name, field in Config.model_fields.items()}
    inner = {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}
    return {"run": Config, **inner}


def _present(annotation: Any) -> Any:
    """Return what an annotation allows besides None, if that is a single type."""
    there = [branch for branch in get_args(annotation) if branch is not type(None)]
    return there[0] if get_origin(annotation) in (Union, types.UnionType) and len(there) == 1 else annotation


def section_settings(section: str) -> list[Setting]:
    """Return the keys of a section; "run" leaves out those that hold a section or a piece."""
    model, inner = sections()[section], sections()
    chosen = {name: field for name, field in model.model_fields.items() if section != "run" or name not in inner}
    texts = _documented(inspect.getdoc(model) or "")
    return [
        Setting(
            name,
            wanted(Annotated[field.annotation, field]),
            field.is_required(),
            None if field.is_required() else _plain(field.get_default(call_default_factory=True)),
            field.description or texts.get(name, ""),
        )
        for name, field in chosen.items()
    ]


def _documented(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each name below "Attributes:"."""
    entries = re.split(r"\n    (?=\w+: )", docstring.partition("Attributes:")[2])
    return {name: " ".join(text.split()) for name, _, text in (entry.partition(": ") for entry in entries[1:])}


def piece_settings(kind: PieceKind, name: str) -> list[Setting]:
    """Return the parameters of a registered piece."""
    return [
        Setting(word, wanted(p.annotation), p.default is p.empty, None if p.default is p.empty else _plain(p.default))
        for word, p in kind.registry.parameters(name, kind.key).items()
    ]


def _plain(value: object) -> object:
    """Return a default as one would write it: a piece by its name, a tuple as a list."""
    if isinstance(value, Spec):
        return value.name
    return list(value) if isinstance(value, tuple) else value


_PIECE = "name or {name: ..., parameters}"
_TYPES = {int: "integer", float: "number", str: "text", bool: "true or false", dict: _PIECE, Spec: _PIECE}


def wanted(annotation: Any) -> str:
    """Return in words what an annotation allows, such as "integer, at least 1, or 'none'"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [limit for mark in inner[1:] for limit in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
        return ", ".join([wanted(inner[0]), *filter(None, map(_limit, limits))])
    if origin in (Union, types.UnionType):
        return ", or ".join(wanted(branch) for branch in inner if branch is not type(None))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is not None and issubclass(origin, Sequence):
        each = wanted(inner[0])
        return f"list of {f'({each})' if ',' in each else each}"
    return _TYPES.get(origin or annotation, "anything")


def _limit(mark: object) -> str | None:
    match mark:
        case Ge(ge=limit):
            return f"at least {limit}"
        case Gt(gt=limit):
            return f"greater than {limit}"
        case Le(le=limit):
            return f"at most {limit}"
        case Lt(lt=limit):
            return f"less than {limit}"
        case MinLen(min_length=limit):
            return f"{limit} or more of them"
    return None


def all_keys() -> dict[str, list[str]]:
    """Return every dotted key, with the names of the pieces that have it: none for a key that always exists."""
    keys: dict[str, list[str]] = {name: [] for name in Config.model_fields}
    for section, model in sections().items():
        if section != "run":
            keys |= {f"{section}.{name}": [] for name in model.model_fields}
    for kind in KINDS.values():
        keys[f"{kind.key}.name"] = []
        for name in kind.registry:
            for word in kind.registry.parameters(name, kind.key):
                keys.setdefault(f"{kind.key}.{word}", []).append(name)
    keys |= {key: [] for key in ("data.split", "data.where", "data.outputs", "data.workers")}
    return keys


def key_hint(where: str, known: list[str]) -> str:
    """Return a hint at what an unknown key meant: a key of another piece, one in this place, one elsewhere, or an option.

    Args:
        where: the dotted path of the unknown key.
        known: the keys that exist in its place.
    """
    where = re.sub(r"\.\d+", "", where)  # the index of an entry in a list
    pieces, section = all_keys().get(where), where.rpartition(".")[0]
    if pieces:
        return f" It is a parameter of {' and '.join(pieces)}.{did_you_mean('', known)}"
    near = nearest_key(where, known)
    if near is None:
        return did_you_mean("", known)
    if near.startswith("--"):
        return f" Did you mean the option {near}?"
    return f" Did you mean {near.removeprefix(f'{section}.')!r}?"


def nearest_key(where: str, known: Sequence[str] = ()) -> str | None:
    """Return the dotted key, or the option, that a word probably meant; a key out of ``known`` is returned as it stands there."""
    keys, word = all_keys(), where.rpartition(".")[2]
    by_last_word = {key.rpartition(".")[2]: key for key in keys}
    same = _same(word, known) or KEYS.get(squeeze(where)) or _same(where, keys)
    same = same or _same(word, keys) or KEYS.get(squeeze(word))
    if same is not None:
        return same
    near = closest(word, known)
    if near is None:
        near = closest(word, by_last_word, _NEAR)
        near = by_last_word[near] if near else closest(where, keys, _NEAR)
    return near


def _same(word: str, keys: Iterable[str]) -> str | None:
    """Return the key that differs from ``word`` only in spelling, or that ends with it."""
    return next((key for key in keys if squeeze(word) in (squeeze(key), squeeze(key.rpartition(".")[2]))), None)
