"""One experiment, one file: strict, typed, and every error names the key, the value and what is allowed."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from byzdist.errors import ConfigError
from byzdist.registry import did_you_mean, explain

Spec = dict[str, Any]  # {name: a registered name, then its parameters}


class Section(BaseModel):
    """A part of the configuration that takes no unknown keys and no values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


def _spec(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _specs(value: object) -> object:
    return [_spec(entry) for entry in value] if isinstance(value, list) else _spec(value)


class Clients(Section):
    """Who takes part; the last ``byzantine`` of the ``count`` clients are Byzantine. ``availability`` says who can, in which round."""

    count: Annotated[int, Field(ge=1, le=10**6)]
    byzantine: Annotated[int, Field(ge=0)] = 0
    availability: Spec = {"name": "always"}

    _names = field_validator("availability", mode="before")(_spec)

    @property
    def good(self) -> range:
        """The ids of the good clients."""
        return range(self.count - self.byzantine)

    @property
    def bad(self) -> range:
        """The ids of the Byzantine clients."""
        return range(self.count - self.byzantine, self.count)


class Aggregation(Section):
    """The robust rule, what is done to the vectors before it, and how many Byzantine clients the operator declares.

    Attributes:
        allow_breakdown: take full rounds in which steps and rule tolerate fewer Byzantine clients than are declared, as the paper does
            (5 of 20 and buckets of 2). Full rounds are not clipped: one such round can undo everything.
        compile: make loops in C of coordinate-wise rules and of weighted sums, faster and to the same bits, and of inner products,
            to all but the last digits: a run that is to be repeated bit for bit has a compiler both times or none. "auto" does so
            where there is one and the model is large enough to gain its tenths of a second back; true insists, and on a GPU
            uses torch.compile for the rules, which takes ten seconds and more.
    """

    rule: Spec
    pre: list[Spec] = []
    declared_byzantine: Annotated[int, Field(ge=0)] | None = None
    allow_breakdown: bool = False
    compile: bool | Literal["auto"] = "auto"

    _names = field_validator("rule", mode="before")(_spec)

    _steps = field_validator("pre", mode="before")(_specs)


class Transport(Section):
    """How server and workers talk, and how long they wait for each other.

    The keys below ``deadline`` are the star's. The times nest: a round waits at most ``deadline`` for its replies; a worker that keeps
    its link waiting for ``deadline + join_timeout`` loses it, and may join again; a run that cannot reach the clients of
    ``min_replies`` for ``join_timeout`` ends.

    Attributes:
        name: star and collective start processes; local is a run in one process, in which times do not count.
        deadline: the longest wait for a round's replies, in seconds.
        join_timeout: the longest wait for workers to join, or to join again, in seconds.
        min_replies: with fewer replies than this, a round leaves the estimate as it is.
        offences: how many malformed replies of a client, or breaches of its link by a worker, lead to quarantine.
        draw: whether cohorts come from the clients within reach, or from all, those out of reach counting as missing.
        restarts: how often a worker process that is killed is started again.
    """

    name: Literal["star", "collective", "local"] = "star"
    deadline: Annotated[float, Field(gt=0)] = 30.0
    join_timeout: Annotated[float, Field(gt=0)] = 60.0
    min_replies: Annotated[int, Field(ge=1)] = 1
    offences: Annotated[int, Field(ge=1)] = 3
    draw: Literal["available", "all"] = "available"
    restarts: Annotated[int, Field(ge=0, le=254)] = 3

    @model_validator(mode="after")
    def _order(self) -> "Transport":
        if self.name == "star" and self.join_timeout < self.deadline:
            raise ValueError(f"join_timeout ({self.join_timeout:g} s) must be at least deadline ({self.deadline:g} s)")
        return self


class Evaluate(Section):
    """Every how many rounds the server evaluates the model, and on how many samples drawn once (all of them by default)."""

    every: Annotated[int, Field(ge=1)] = 50
    samples: Annotated[int, Field(ge=1)] | None = None


class Checkpoints(Section):
    """Every how many rounds, and every how many minutes, the state of the run is saved; and how many such states are kept.

    A run that ends, or is told to end, saves its state in any case.
    """

    every: Annotated[int, Field(ge=1)] | Literal["none"] = "none"
    minutes: Annotated[float, Field(gt=0)] | Literal["none"] = 1.0
    keep: Annotated[int, Field(ge=1)] = 2


class Config(Section):
    """An experiment; the sections that name a registered piece are checked against that piece's own parameters."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    rounds: Annotated[int, Field(ge=1, lt=2**32)]  # the round number travels in 32 bits
    clients: Clients
    data: Spec
    model: Spec
    method: Spec
    compression: Spec = {"name": "identity"}
    aggregation: Aggregation
    attack: Spec | list[Spec] = {"name": "none"}
    transport: Transport = Transport()
    evaluate: Evaluate = Evaluate()
    checkpoint: Checkpoints = Checkpoints()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1

    _names = field_validator("data", "model", "method", "compression", mode="before")(_spec)
    _attacks = field_validator("attack", mode="before")(_specs)

    @property
    def attacks(self) -> list[Spec]:
        """The entries of ``attack``, one or a list."""
        return self.attack if isinstance(self.attack, list) else [self.attack]

    @property
    def declared_byzantine(self) -> int:
        """B, as declared by the operator; the configured number where nothing is declared."""
        declared = self.aggregation.declared_byzantine
        return self.clients.byzantine if declared is None else declared


class _Loader(yaml.SafeLoader):
    """YAML without two traps: ``1e-3`` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # what << brings in gives way
        keys = [self.construct_object(key, deep=True) for key in own]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML text; ``where`` names it in the error."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the latter two: of huge integers, dates, nests
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def override(tree: dict[str, Any], assignment: str) -> None:
    """Apply a command-line override such as ``method.clip=none`` in place."""
    path, equals, text = assignment.partition("=")
    if not equals or not all(path.split(".")):
        raise ConfigError(f"{assignment!r}: an override has the form key=value, for example method.clip=none.")
    *parents, last = path.split(".")
    node = tree
    for parent in parents:
        below = node.get(parent)
        if isinstance(below, str):  # the short form "rule: krum" of {name: krum}
            below = {"name": below}
        node[parent] = below = {} if below is None else below
        if not isinstance(below, dict):
            raise ConfigError(f"{path}: {parent!r} holds {below!r}, which has no keys below it.")
        node = below
    node[last] = read_yaml(text, path)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, apply the overrides, and check everything that can be checked without data.

    Raises:
        ConfigError: for a missing file, a wrong key or value, or a combination that cannot work.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot read the configuration: {reason}.") from None
    tree = read_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys such as name, rounds, clients.")
    for assignment in overrides:
        override(tree, assignment)
    return parse(tree)


def parse(tree: Mapping[str, Any]) -> Config:
    """Check a configuration given as a mapping; see `load`."""
    try:
        config = Config.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(explain(error, "", tree, _keys_at(error.errors()[0]["loc"][:-1]))) from None
    from byzdist.checks import check  # registers every piece, which a reader of the schema alone does not need

    check(config)
    return config


def _keys_at(location: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def dump(config: Config) -> str:
    """Return the configuration as YAML that `load` reads back to the same run."""
    return yaml.safe_dump(config.model_dump(exclude_none=True), sort_keys=False)


__all__ = ["Config", "Spec", "did_you_mean", "dump", "load", "override", "parse", "read_yaml"]
