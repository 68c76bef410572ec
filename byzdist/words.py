"""Words for a user: which name was probably meant, pydantic's complaints in our words, dotted keys, sizes in bytes."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from byzdist.errors import ConfigError, UnknownKey


def squeeze(word: str) -> str:
    """Return a word without case, hyphens, underscores and dots, in which spellings differ."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


def closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known word that is spelled most like ``word``; None if none is close."""
    spelled = {squeeze(name): name for name in known}
    close = difflib.get_close_matches(squeeze(word), spelled, n=1, cutoff=cutoff)
    return spelled[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint such as " Did you mean 'krum'?", or the list of known words if none is close."""
    known = list(known)
    close = closest(word, known)
    if close is not None:
        return f" Did you mean {close!r}?"
    return f" Known: {', '.join(sorted(known))}." if known else " There are no keys here."


_WANTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "finite_number": "a finite number",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "dict_type": "a mapping of keys to values",
}
_LONGEST = 80  # characters of a value


def explain(error: ValidationError, key: str, given: Mapping[str, Any], known: list[str]) -> ConfigError:
    """Return pydantic's first complaint about ``given`` as an error that names the key, the value and the remedy.

    Args:
        error: what pydantic raised.
        key: the dotted path of ``given`` in the configuration.
        given: what was checked.
        known: the keys that exist, for a complaint about an unknown key, or about a value in place of a section.
    """
    first, *others = error.errors()
    path = _path(first, given)
    where = ".".join(filter(None, [key, *path])) or "configuration"
    if first["type"] == "extra_forbidden":
        return UnknownKey(where, known, did_you_mean(path[-1], known))
    if first["type"] == "missing":
        return ConfigError(f"{where}: this key is required.")
    if first["type"] == "value_error":
        return ConfigError(f"{where}: {first['ctx']['error']}.")
    if first["type"] == "invalid_key" or first["loc"][-1] == "[key]":
        return ConfigError(f"{where}: a key must be text (it is {shown(first['input'])}).")
    if first["type"] in ("model_type", "model_attributes_type"):
        example = f"{where}.{known[0]}"
        return ConfigError(f"{where}: must be a section, with keys such as {example} (it is {shown(first['input'])}).")
    branches = [first, *(other for other in others if _path(other, given) == path)]  # the other branches of a union
    wanted = [_wanted(branch) for branch in branches]
    if None in wanted:  # a message of a validator, a user's or ours
        return ConfigError(f"{where}: {first['msg']} (it is {shown(first['input'])}).")
    words = " or ".join(dict.fromkeys(filter(None, wanted)))
    value = first["input"]
    return ConfigError(
        f"{where}: must be {words} (it is {shown(value)}{_remedy(value, words)}).{_option(value, words)}"
    )


def shown(value: object) -> str:
    """Return a value as a configuration spells it. The middle of a long one is left out, because a path's end says most."""
    if value is None or isinstance(value, bool):
        return "empty" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2 - 2]}...{text[-(_LONGEST // 2 - 1) :]}"


def _wanted(complaint: Any) -> str | None:
    """Return what the value must be; None if we have no words for it."""
    limits = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in complaint.get("ctx", {}).items()}
    words = _WANTED.get(complaint["type"])
    return None if words is None else words.format(**limits)


def _remedy(value: object, wanted: str) -> str:
    if isinstance(value, str) and ("number" in wanted or "integer" in wanted) and re.fullmatch(r"[-+.\deE]*\d", value):
        return ", which is text: leave the quotes out"
    if wanted == "text" and isinstance(value, bool):
        return ", as YAML takes yes, no, on and off without quotes"
    if wanted == "text" and isinstance(value, int | float):
        return f": put it in quotes, '{value}'"
    return ""


def _option(value: object, wanted: str) -> str:
    """Return a hint at the fixed word that a value resembles."""
    near = closest(value, re.findall("'([^']*)'", wanted), 0.8) if isinstance(value, str) else None
    return f" Did you mean {near!r}?" if near else ""


def _path(complaint: Any, given: Any) -> list[str]:
    """Return the keys in a complaint's location that lead through ``given``; it names branches of unions as well."""
    path = []
    for depth, part in enumerate(complaint["loc"], 1):
        inside = part in given if isinstance(given, Mapping) else isinstance(given, list) and isinstance(part, int)
        if inside:
            given = given[part]
        if inside or (complaint["type"] == "missing" and depth == len(complaint["loc"])):
            path.append(str(part))
    return path


def short_key(key: str, keys: Collection[str]) -> str:
    """Return the last part of a dotted key, or the whole key if another one of ``keys`` has the same last part."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) <= 1 else key


def spelled_bytes(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a tree of mappings by their dotted keys."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values
