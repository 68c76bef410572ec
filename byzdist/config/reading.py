"""From a file, standard input or a mapping to a checked configuration, and back."""

import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from byzdist.config.schema import Config
from byzdist.config.yaml_reading import MAX_BYTES, read_yaml
from byzdist.errors import ConfigError, UnknownKey
from byzdist.host.files import read_text
from byzdist.words import explain


def override(tree: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """Return the tree after a command-line override such as ``method.clip=none``."""
    path, equals, text = assignment.partition("=")
    if not equals or not all(path.split(".")):
        raise ConfigError(
            f"{assignment!r}: an override has the form key=value, without spaces, for example method.clip=none."
        )
    return put(tree, path.split("."), read_yaml(text, path), path)


def put(node: Mapping[str, Any], keys: Sequence[str], value: object, path: str) -> dict[str, Any]:
    """Return the node with ``value`` at ``keys``; ``path`` is for the error, a ConfigError."""
    first, *others = keys
    if not others:
        return {**node, first: value}
    below = node.get(first)
    if isinstance(below, str):  # the short form "rule: krum" of {name: krum}
        below = {"name": below}
    if not isinstance(below, dict | None):
        raise ConfigError(f"{path}: {first!r} holds {below!r}, which has no keys below it.")
    return {**node, first: put(below or {}, others, value, path)}


def load(path: str | Path, overrides: Sequence[str] = (), local: Path | None = None) -> Config:
    """Read a configuration file, apply the overrides, and check everything that can be checked without data.

    The paths in it become absolute, see `resolve_paths`. From then on, modules beside the file and in the working folder can
    be imported, for names such as ``mine:net``; installed packages come first.

    Args:
        path: "-" is standard input.
        overrides: new values of keys, as ``key=value``.
        local: a file with keys of the data section that are this rank's own, see `read_local`.

    Raises:
        ConfigError: for a missing file, a wrong key or value, or values that do not work together.
    """
    tree = read_tree(path)
    for assignment in overrides:
        tree = override(tree, assignment)
    tree = resolve_paths(tree, Path(path).parent)
    if local is not None:
        for key, value in read_local(local).items():
            tree = put(tree, ["data", key], value, f"data.{key}")
    for folder in (os.path.dirname(os.path.abspath(path)), os.getcwd()):
        if str(path) != "-" and folder not in sys.path:
            sys.path.append(folder)
    return parse(tree)


def read_tree(path: str | Path, *, follow: bool = True) -> dict[str, Any]:
    """Return what a configuration file says, unchecked; ``follow``: whether it may be a symbolic link.

    Raises:
        ConfigError: if it cannot be read, or is not a mapping.
    """
    try:
        text = read_text(Path(path), MAX_BYTES, follow=follow) if str(path) != "-" else _standard_input()
    except (OSError, ValueError) as error:  # ValueError: it is not UTF-8, or its name has a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, UnicodeDecodeError):
            reason = f"it is not UTF-8, in which it must be saved ({reason})"
        raise ConfigError(f"{path}: cannot read the configuration: {reason}.") from None
    tree = read_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys such as name, rounds, clients.")
    return tree


def read_local(path: Path) -> dict[str, Any]:
    """Return the keys of the data section that are a rank's own, with absolute paths.

    The file has them under ``data``, or as dotted keys: ``data.path: FILE``.

    Raises:
        ConfigError: for anything else in it, such as a key that all ranks must agree on.
    """
    from byzdist.problem.private_data import COMMON  # it imports torch, which readers of a configuration do not need

    tree: dict[str, Any] = {}
    for key, value in read_tree(path).items():
        tree = put(tree, str(key).split("."), value, str(key))
    others = [key for key in tree if key != "data"]
    if others or not isinstance(tree.get("data"), dict):
        what = f"{others[0]!r} is not one of them" if others else "it has none"
        raise ConfigError(f"--local: {path}: a file of a rank's own sets keys of the data section; {what}.")
    common = next((key for key in tree["data"] if key in ("name", "split", *COMMON)), None)
    if common is not None:
        raise ConfigError(f"--local: {path}: data.{common} is the same on every rank; it belongs in the configuration.")
    data: dict[str, Any] = resolve_paths(tree, path.parent)["data"]
    return data


def resolve_paths(tree: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the tree with absolute paths (``path``, ``..._path``) in the data, validation and availability sections.

    A leading ``~`` and ``$VARIABLES`` are expanded. A relative path counts from the working folder, else from ``folder``, the
    configuration's; a path that exists in neither stays as it is, so that the error shows it.
    """

    def absolute(section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        return {
            key: _absolute(value, folder) if is_path(key) and isinstance(value, str) else value
            for key, value in section.items()
        }

    return _changed_where_paths_are(tree, absolute)


def _absolute(path: str, folder: Path) -> str:
    expanded = os.path.expanduser(os.path.expandvars(path))
    there = next((found for found in (Path(expanded), folder / expanded) if _exists(found)), None)
    return path if there is None else os.path.abspath(there)


def _changed_where_paths_are(tree: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the tree with ``change`` applied to the sections that can name files."""
    changed = dict(tree)
    for section in changed.keys() & {"data", "validation"}:
        changed[section] = change(changed[section])
    clients = changed.get("clients")
    if isinstance(clients, dict) and "availability" in clients:
        changed["clients"] = {**clients, "availability": change(clients["availability"])}
    return changed


def is_path(key: object) -> bool:
    """Return whether a key of the data, validation or availability section names a file or folder."""
    return isinstance(key, str) and (key == "path" or key.endswith("_path"))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long or has a zero byte, or a folder without access
        return False


def _standard_input() -> str:
    """Return what standard input holds; a file is read from its start, because the processes of a run share its position."""
    if stat.S_ISREG((facts := os.fstat(0)).st_mode):
        return os.pread(0, facts.st_size, 0).decode()
    return _read_pipe(facts.st_dev, facts.st_ino)


@lru_cache(maxsize=1)
def _read_pipe(device: int, inode: int) -> str:
    """Return what standard input holds, a pipe with this device and inode; a pipe can be read only once, so the result is kept."""
    return sys.stdin.buffer.read().decode()


def parse(tree: Mapping[str, Any]) -> Config:
    """Check a configuration given as a mapping; see `load`."""
    try:
        return _parse(tree)
    except UnknownKey as error:
        from byzdist.config.settings import key_hint

        raise ConfigError(f"{error.where}: unknown key.{key_hint(error.where, error.known)}") from None


def _parse(tree: Mapping[str, Any]) -> Config:
    try:
        config = Config.model_validate(dict(tree))
    except ValidationError as error:
        first = error.errors()[0]
        section = first["loc"] if first["type"] == "model_type" else first["loc"][:-1]
        raise explain(error, "", tree, _keys_at(section)) from None
    from byzdist.config.checks import check  # imports every piece, which readers of the schema do not need

    return check(config)


def _keys_at(location: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        branches = get_args(annotation) or (annotation,)  # a section that may be left out is a union with None
        sections = [kind for kind in branches if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not sections:
            return []
        (model,) = sections
    return list(model.model_fields)


def dump(config: Config, *, paths: bool = True) -> str:
    """Return the configuration as YAML that `load` reads back to the same run; ``paths``: include paths, which hosts may not share."""
    tree = config.model_dump(exclude_none=True)
    if not paths:
        from byzdist.problem.private_data import COMMON, is_private

        if is_private(config.data):
            tree["data"] = {key: value for key, value in tree["data"].items() if key in ("name", *COMMON)}
        tree["data"].pop("workers", None)
        tree = _changed_where_paths_are(tree, lambda section: {k: v for k, v in section.items() if not is_path(k)})
    return yaml.safe_dump(tree, sort_keys=False)
