"""A run's name: its settings, short and readable, as a folder on any file system.

A name depends on the run's own settings and on the keys that are swept, never on the other values: a sweep may grow.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from byzdist.registry import Spec
from byzdist.words import short_key

_LONGEST_VALUE, _LONGEST = 32, 160  # characters; file systems allow 255
_DIGITS = 6  # hexadecimal, of a digest


def label(value: Any) -> str:
    """Return a setting's value as people read it: a piece without parameters by its name alone."""
    if isinstance(value, Spec):
        value = value.plain()
    if isinstance(value, Mapping):
        inner = " ".join(f"{key}={label(below)}" for key, below in value.items() if key != "name")
        return f"{value.get('name', '')}({inner})" if inner else str(value.get("name", ""))
    if isinstance(value, list | tuple):
        return "+".join(map(label, value)) or "none"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def folder_name(settings: Mapping[str, Any]) -> str:
    """Return a run's name, ``rule=krum,attack=alie,seed=0``.

    What a file system may not take, or may take for another name (a capital letter), is replaced, and a digest of the value makes
    the name unique again; a long value is cut and gets a digest, too.
    """
    name = ",".join(
        f"{_safe(short_key(key, settings))}={_safe(label(value), value)}" for key, value in settings.items()
    )
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{_digest(settings)}"


def _safe(text: str, value: Any = None) -> str:
    safe = re.sub(r"[^a-z0-9._+-]+", "-", text.lower())
    if safe == text and len(safe) <= _LONGEST_VALUE:
        return safe
    return f"{safe[:_LONGEST_VALUE].strip('-')}-{_digest(text if value is None else value)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:_DIGITS]
