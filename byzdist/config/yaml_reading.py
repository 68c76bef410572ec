"""The YAML of configurations, read in bounded time and memory whoever wrote it."""

import re
from typing import Any

import yaml

from byzdist.errors import ConfigError

MAX_BYTES = 1 << 20  # the largest configuration
_MAX_VALUES = 50_000  # an alias counts as all the values that it stands for
_MAX_KEYS = 1_000  # of one mapping
_MAX_DEPTH = 50
_MAX_DIGITS = 1_000  # Python takes quadratic time to read a whole number


class _Loader(yaml.SafeLoader):
    """YAML without traps: ``1e-3`` is a number, a key given twice is an error, and so is a tree larger or deeper than any configuration."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}  # by id of a complete node: its number of values, aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._values
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _refusal(f"it is nested more than {_MAX_DEPTH} levels deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _refusal(f"the alias *{event.anchor} is within what it stands for", event)
            self._values += self._sizes[id(node)]
        else:
            self._values += 1
            self._sizes[id(node)] = self._values - before
        if self._values > _MAX_VALUES:
            raise _refusal(f"it has more than {_MAX_VALUES} values, its aliases written out", event)
        if isinstance(node, yaml.MappingNode) and len(node.value) > _MAX_KEYS:
            raise _refusal(f"a mapping has more than {_MAX_KEYS} keys", event)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Keys that << brings in may be overridden.
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Return a number; 3e3 becomes an integer, for ``rounds: 3e3``."""
        value: float = super().construct_yaml_float(node)
        power = "e" in node.value.lower() and value.is_integer() and abs(value) < 2**53
        return int(value) if power else value

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if node.tag.endswith((":int", ":float")) and len(node.value) > _MAX_DIGITS:
            problem = f"an integer, or another number, of more than {_MAX_DIGITS} digits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_scalar(node)


# YAML 1.1 reads 1e-3 as text, because its numbers need a dot and a signed exponent.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _refusal(problem: str, event: Any) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, problem, event.start_mark)


def read_yaml(text: str, where: str) -> Any:
    """Return what YAML text says.

    Args:
        text: any text, perhaps hostile.
        where: names it in the error.

    Raises:
        ConfigError: if it is not YAML, gives a key twice, or is larger or deeper than any configuration.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where}: {len(text)} characters are more than a configuration can have ({MAX_BYTES}).")
    try:
        found = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:  # numbers, dates, odd keys
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if _is_too_deep(found):
        raise ConfigError(f"{where}: it is nested more than {_MAX_DEPTH} levels deep, through its aliases.")
    return found


def _is_too_deep(tree: Any) -> bool:
    level = [tree]
    for _ in range(_MAX_DEPTH + 1):
        level = [
            below
            for node in level
            if isinstance(node, list | dict)
            for below in (node.values() if isinstance(node, dict) else node)
        ]
    return bool(level)
