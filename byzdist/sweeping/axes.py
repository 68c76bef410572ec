"""What a sweep varies: a file ``{base, set, grid, zip, curves}``, or words ``key=value``; the product of its axes gives the runs."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byzdist.config.reading import put, read_tree, resolve_paths
from byzdist.config.yaml_reading import read_yaml
from byzdist.errors import ConfigError
from byzdist.sweeping.naming import folder_name, label
from byzdist.words import did_you_mean, shown

CURVE = "curve"
"""The setting that names a run's curve."""
_KEYS = ("base", "set", "grid", "zip", "curves")
_RANGE = re.compile(r"(-?\d{1,9})\.\.(-?\d{1,9})")
_MAX_RUNS = 10_000


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        name: its folder's.
        settings: what makes it different from the others, by dotted key.
        tree: its configuration, unchecked.
    """

    name: str
    settings: Mapping[str, Any]
    tree: Mapping[str, Any]


@dataclass(frozen=True)
class _Point:
    """One place on an axis: the settings that name it, and what they change in the configuration."""

    settings: Mapping[str, Any]
    changes: Mapping[str, Any]


class Sweep:
    """A sweep, read from its file or from a tree of that form.

    Args:
        tree: ``base`` is a configuration, ``set`` and the axes change it.
        folder: relative paths count from here if not from the working folder.

    Attributes:
        tree: the same, complete; `Sweep` reads it again to the same runs.
        folders: where modules of the user's own may be.

    Raises:
        ConfigError: naming the key and the value.
    """

    def __init__(self, tree: Mapping[str, Any], folder: Path) -> None:
        for key in tree:
            if key not in _KEYS:
                raise ConfigError(f"{key}: a sweep has no such key.{did_you_mean(str(key), _KEYS)}")
        self.folders = [folder]
        self._folder = folder
        self.tree: dict[str, Any] = {"base": self._base(tree.get("base"))}
        self.tree["set"] = _mapping(tree.get("set"), "set")
        self.tree["grid"] = _lists(tree.get("grid"), "grid")
        self.tree["zip"] = [_lists(entry, "zip") for entry in _list(tree.get("zip"), "zip")]
        self.tree["curves"] = _mapping(tree.get("curves"), "curves")

    def _base(self, base: Any) -> dict[str, Any]:
        if isinstance(base, Mapping):
            return resolve_paths(base, self._folder)
        if not isinstance(base, str):
            raise ConfigError(f"base: the file of a configuration, or a configuration (it is {shown(base)}).")
        path = next((there for there in (self._folder / base, Path(base)) if there.exists()), Path(base))
        self.folders.append(path.parent)
        return resolve_paths(read_tree(path), path.parent)

    def change(self, words: Sequence[str]) -> "Sweep":
        """Return the sweep after words ``key=value``: a list or a range ``0..4`` is swept, any other value is set."""
        tree = {key: dict(self.tree[key]) for key in ("set", "grid")}
        for word in words:
            key, equals, text = word.partition("=")
            if not equals or not all(key.split(".")):
                raise ConfigError(
                    f"{word!r}: a setting has the form key=value, key=[values] or key=0..4, without spaces."
                )
            value = _ranged(text) or read_yaml(text, key)
            tree["set"].pop(key, None)
            tree["grid"].pop(key, None)
            tree["grid" if isinstance(value, list) else "set"][key] = value
        changed = Sweep(self.tree | tree, self._folder)
        changed.folders = self.folders
        return changed

    def members(self) -> list[Member]:
        """Return the runs, the last axis varying fastest.

        Raises:
            ConfigError: naming the key and the value.
        """
        axes = list(self._axes())
        self._check_keys(axes)
        size = math.prod(map(len, axes))
        if not axes or size > _MAX_RUNS:
            remedy = "give it a list: key=[values]" if not axes else f"at most {_MAX_RUNS} are possible in one folder"
            raise ConfigError(f"grid, zip, curves: they make {size if axes else 0} runs; {remedy}.")
        made: dict[str, Member] = {}
        for points in itertools.product(*axes):
            member = self._member(points)
            if (twin := made.get(member.name)) is not None:
                raise ConfigError(f"{_what_repeats(twin, member)}: this value is given twice; leave one out.")
            made[member.name] = member
        return list(made.values())

    def _axes(self) -> Iterator[list[_Point]]:
        for key, values in self.tree["grid"].items():
            yield [_Point({key: value}, {key: value}) for value in values]
        for entry in self.tree["zip"]:
            lengths = {key: len(values) for key, values in entry.items()}
            if len(set(lengths.values())) != 1:
                told = ", ".join(f"{key} has {length} values" for key, length in lengths.items()) or "it is empty"
                raise ConfigError(f"zip: {told}; the lists of one entry go together, and have as many values each.")
            rows = [dict(zip(entry, row, strict=True)) for row in zip(*entry.values(), strict=True)]
            yield [_Point(row, row) for row in rows]
        if curves := self.tree["curves"]:
            yield [_Point({CURVE: name}, _mapping(changes, f"curves.{name}")) for name, changes in curves.items()]

    def _check_keys(self, axes: list[list[_Point]]) -> None:
        """Refuse a key that two places set."""
        places = [("set", set(self.tree["set"]))]
        places += [("an axis", {key for point in axis for key in {**point.settings, **point.changes}}) for axis in axes]
        for (one, keys), (other, others) in itertools.combinations(places, 2):
            if both := sorted(keys & others):
                where = "two axes" if one == other else f"{one} and {other}"
                raise ConfigError(f"{both[0]}: it is in {where} of the sweep; leave one of them out.")

    def _member(self, points: Sequence[_Point]) -> Member:
        settings = {key: value for point in points for key, value in point.settings.items()}
        changes = dict(self.tree["set"])
        for point in points:
            changes |= point.changes
        name, tree = folder_name(settings), self.tree["base"]
        try:
            for key in sorted(changes, key=lambda key: key.count(".")):  # a section comes before what is in it
                tree = put(tree, key.split("."), changes[key], key)
        except ConfigError as error:
            raise ConfigError(f"run {name}: {error}") from None
        return Member(name, settings, resolve_paths(tree, self._folder))


def read_sweep(path: str | Path, words: Sequence[str] = ()) -> Sweep:
    """Return the sweep in a file, or of a configuration's file, changed by words; see `Sweep.change`.

    Raises:
        ConfigError: if it cannot be read, or is no sweep.
    """
    tree = read_tree(path)
    if "base" not in tree:
        if near := [key for key in ("grid", "zip", "curves") if key in tree]:
            raise ConfigError(f"{path}: a sweep with {near[0]} needs base, the configuration that it changes.")
        tree = {"base": str(Path(path).absolute())}
    return Sweep(tree, Path(path).parent).change(words)


def _ranged(text: Any) -> list[int] | None:
    """Return the whole numbers of a range such as 0..4, with both ends; None if the text does not give a range."""
    found = _RANGE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    first, last = map(int, found.groups())
    if not 0 <= last - first < _MAX_RUNS:
        raise ConfigError(f"{text}: a range goes upwards, over at most {_MAX_RUNS} numbers.")
    return list(range(first, last + 1))


def _values(given: Any, where: str) -> list[Any]:
    values = _ranged(given) or given
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: a list of values, or a range such as 0..4 (it is {shown(given)}).")
    return values


def _mapping(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping | None) or any(not isinstance(key, str) for key in given or ()):
        raise ConfigError(f"{where}: a mapping of keys to values (it is {shown(given)}).")
    return dict(given or {})


def _lists(given: Any, where: str) -> dict[str, list[Any]]:
    return {key: _values(values, f"{where}.{key}") for key, values in _mapping(given, where).items()}


def _list(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list | None):
        raise ConfigError(f"{where}: a list of mappings of keys to lists (it is {shown(given)}).")
    return given or []


def _what_repeats(one: Member, other: Member) -> str:
    """Return the settings of two runs of one name, which look the same."""
    return ", ".join(f"{key}={label(value)}" for key, value in other.settings.items() if key in one.settings)
