"""In which settings runs differ, and how a picture spells a setting."""

import json
from collections.abc import Sequence
from typing import Any

from byzdist.errors import ConfigError
from byzdist.reporting.pictures.history import History
from byzdist.words import closest, short_key

REPEATED = ("seed", "name")  # what runs of one curve may differ in
_LONGEST = 60


def same(history: History) -> str:
    """Return a text that is the same for runs that differ in nothing but seed and name."""
    return json.dumps({k: v for k, v in history.settings.items() if k not in REPEATED}, sort_keys=True, default=str)


def differing(runs: Sequence[History]) -> list[str]:
    """Return the dotted keys in which runs differ, besides seed and name.

    A section whose ``name`` differs, such as ``attack`` or ``aggregation.rule``, is one key: its other keys belong to the name.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in REPEATED)
    changed = [key for key in keys if len({_plain(run.settings.get(key)) for run in runs}) > 1]
    sections = [key.removesuffix(".name") for key in changed if key.endswith(".name")]
    outermost = [key for key in sections if not any(key.startswith(f"{other}.") for other in sections)]

    def of(key: str) -> str:
        return next((s for s in outermost if key.startswith(f"{s}.")), key)

    return list(dict.fromkeys(map(of, changed)))


def values(runs: Sequence[History], key: str) -> list[str]:
    """Return how each run has set a key, as text: for a piece its name, and the parameters in which runs with this name differ.

    Raises:
        ConfigError: if no run has the key.
    """
    found = [_below(run, key) for run in runs]
    if not any(found):
        differ = differing(runs)
        near = closest(key, differ)
        hint = f" Did you mean {near!r}?" if near else ""
        raise ConfigError(f"{key}: no run has this key.{hint} The runs differ in: {', '.join(differ) or 'nothing'}.")
    texts = []
    for mine in found:
        if "" in mine:
            texts.append(said(mine[""]))
            continue
        name = mine.get("name")
        alike = [other for other in found if other.get("name") == name]
        vary = [k for k in mine if k != "name" and len({_plain(other.get(k)) for other in alike}) > 1]
        parameters = ", ".join(f"{k}={said(mine[k])}" for k in vary)
        named = said(name) if "name" in mine else ""
        texts.append(f"{named} ({parameters})" if named and parameters else named or parameters or "–")
    return texts


def ordered(texts: Sequence[str]) -> list[str]:
    """Return the different texts: numbers ascending, then words as they come."""

    def place(text: str) -> tuple[bool, float]:
        try:
            return False, float(text)
        except ValueError:
            return True, 0.0

    return sorted(dict.fromkeys(texts), key=place)


def labels(runs: Sequence[History], keys: Sequence[str]) -> list[str]:
    """Return a label for each run from its values of some keys, such as ``rule=krum, clip=1``."""
    if not keys:
        return [""] * len(runs)
    columns = [values(runs, key) for key in keys]
    names = [short_key(key, keys) for key in keys]
    return [
        ", ".join(f"{name}={text}" for name, text in zip(names, row, strict=True)) for row in zip(*columns, strict=True)
    ]


def said(value: Any) -> str:
    """Return a value as a picture spells it."""
    if isinstance(value, list | tuple):
        text = " + ".join(map(said, value)) or "none"
    elif isinstance(value, dict):
        parameters = ", ".join(f"{k}={said(v)}" for k, v in value.items() if k != "name")
        name = str(value.get("name", ""))
        text = f"{name} ({parameters})" if name and parameters else name or parameters or "none"
    elif value is None or isinstance(value, bool):
        text = "none" if value is None else str(value).lower()
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"


def _below(run: History, key: str) -> dict[str, Any]:
    """Return a key's value under "", or a section's values by the rest of their keys."""
    if key in run.settings:
        return {"": run.settings[key]}
    return {k[len(key) + 1 :]: value for k, value in run.settings.items() if k.startswith(f"{key}.")}


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
