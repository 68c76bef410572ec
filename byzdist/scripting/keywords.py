"""Turns the arguments of `byzdist.train` into a configuration."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from byzdist.config.reading import put, read_tree, resolve_paths
from byzdist.config.schema import Config
from byzdist.errors import ConfigError
from byzdist.scripting import handed
from byzdist.scripting.naming import Objects
from byzdist.words import closest

SHORT = {
    "byzantine": "clients.byzantine",
    "rule": "aggregation.rule",
    "pre": "aggregation.pre",
    "declared_byzantine": "aggregation.declared_byzantine",
    "split": "data.split",
    "loss": "task",
}
"""Keywords that are short for another key; so are numbers for ``clients`` and ``evaluate``, see `_NUMBERS`."""
_NUMBERS = {"clients": "clients.count", "evaluate": "evaluate.every"}
_HANDED = {"model": handed.model, "data": handed.data, "validation": handed.data, "task": handed.task}


def tree_of(
    config: str | os.PathLike[str] | Mapping[str, Any] | None, settings: Mapping[str, Any], objects: Objects
) -> dict[str, Any]:
    """Return a configuration, unchecked.

    Args:
        config: a YAML file, or a mapping with the content of one; a file's folder is added to the import path.
        settings: keywords, see `SHORT`, and dotted keys; they override ``config``.
        objects: gives names to the objects that YAML cannot express.

    Raises:
        ConfigError: for a file that cannot be read, a value of the wrong kind, or a key that is given twice.
    """
    tree: dict[str, Any] = {} if config is not None else {"name": "train", "clients": {}, "aggregation": {}}
    folder = Path()
    if isinstance(config, Mapping):
        tree = handed.plain(config, objects)
    elif config is not None:
        tree, folder = read_tree(Path(config)), Path(config).parent
    keys = _keys(settings)
    for key in sorted(keys, key=lambda key: key.count(".")):  # sections before the keys within them
        value = keys[key]
        value = _HANDED[key](value, objects) if key in _HANDED else handed.plain(value, objects)
        section, _, last = key.partition(".")
        if isinstance(value, dict) and isinstance(tree.get(key), dict) and "name" not in value and not last:
            value = {**tree[key], **value}
        tree = put(tree, key.split("."), value, key)
    tree = resolve_paths(tree, folder)
    for place in (os.path.abspath(folder), os.getcwd()):
        if place not in sys.path:
            sys.path.append(place)
    return tree


def _keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by their dotted keys; those that are None are left out."""
    keys: dict[str, Any] = {}
    for word, value in settings.items():
        if value is None:
            continue
        if word not in SHORT and word not in Config.model_fields and (meant := closest(word, SHORT, cutoff=0.8)):
            raise ConfigError(f"{word}: unknown key. Did you mean {meant!r}?")
        key = SHORT.get(word, word)
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, torch.dtype | torch.device):
            value = str(value).removeprefix("torch.")
        if isinstance(value, int) and not isinstance(value, bool):
            key = _NUMBERS.get(key, key)
        if key in keys:
            raise ConfigError(f"{word}: {key} is given twice; leave one of them out.")
        keys[key] = value
    return keys
