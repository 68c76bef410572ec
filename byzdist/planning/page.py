"""The page that `byzdist plan` prints, and the same as JSON."""

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from byzdist.words import spelled_bytes

_WIDTH, _WORDS = 98, 58


@dataclass(frozen=True)
class Fact:
    """One line of the page.

    Attributes:
        key: its name in JSON.
        words: what it is.
        value: for JSON; None: not known.
        shown: the value for people, by default the number in three digits.
    """

    key: str
    words: str
    value: Any
    shown: str = ""


@dataclass
class Section:
    """A group of facts under a title, and remarks below them."""

    key: str
    title: str
    facts: list[Fact] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, key: str, words: str, value: Any, shown: str = "") -> None:
        """Add a fact."""
        self.facts.append(Fact(key, words, value, shown))

    def add_bytes(self, key: str, words: str, nbytes: float) -> None:
        """Add a fact that is a number of bytes."""
        self.add(key, words, nbytes, spelled_bytes(nbytes))


def number(value: Any) -> str:
    """Return a number in three digits, and anything else as it is."""
    if value is None or value == math.inf:
        return "not known"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def percent(chance: float) -> str:
    """Return a probability in percent, so that one close to 0 or 1 is not shown as 0 or 100."""
    if chance < 0.99 or chance == 1:
        return f"{chance * 100:.3g} %"
    rest = float(f"{(1 - chance) * 100:.2g}")
    return f"{chance * 100:.{-math.floor(math.log10(rest))}f} %"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 2 * length or unit == "s":
            return f"{seconds / length:.2g} {unit}"
    raise AssertionError("the loop ends with seconds")


def page(title: str, sections: Sequence[Section], warnings: Sequence[str]) -> str:
    """Return the page as text."""
    lines = [title]
    for section in sections:
        lines += ["", section.title]
        for fact in section.facts:
            lines += _line(fact.words, fact.shown or number(fact.value))
        for note in section.notes:
            lines += _wrapped(note, "  ")
    if warnings:
        lines += ["", "Warnings"]
        for warning in warnings:
            lines += _wrapped(warning, "  * ", "    ")
    return "\n".join(lines)


def _line(words: str, shown: str) -> list[str]:
    first, *rest = textwrap.wrap(words, _WORDS - 4)
    values = textwrap.wrap(shown, _WIDTH - _WORDS - 2) or [""]
    if not rest and len(values) == 1:
        return [f"  {first:<{_WORDS - 2}}{values[0]}"]
    left = [first, *rest]
    height = max(len(left), len(values))
    left, values = left + [""] * (height - len(left)), values + [""] * (height - len(values))
    return [f"  {a:<{_WORDS - 2}}{b}".rstrip() for a, b in zip(left, values, strict=True)]


def _wrapped(text: str, first: str, later: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=later or first, break_long_words=False)


def as_json(title: str, sections: Sequence[Section], warnings: Sequence[str]) -> str:
    """Return the page as JSON: the sections by their keys, each with its facts by theirs and its remarks, and the warnings."""
    tree: dict[str, Any] = {"title": title}
    for section in sections:
        tree[section.key] = {fact.key: _plain(fact.value) for fact in section.facts}
        if section.notes:
            tree[section.key]["notes"] = section.notes
    tree["warnings"] = list(warnings)
    return json.dumps(tree, indent=2, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a value that JSON has: infinity and NaN become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
