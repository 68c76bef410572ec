"""What `byzdist list` shows: every registered piece, its parameters, and the keys of every section."""

import json
import shutil
import textwrap
from typing import Any

from byzdist.aggregation import RULES, Facts
from byzdist.config.settings import KINDS, PieceKind, Setting, piece_settings, section_settings, sections
from byzdist.errors import ConfigError
from byzdist.registry import Registry
from byzdist.words import closest, did_you_mean, squeeze

SECTIONS: dict[str, Registry[Any]] = {
    f"{kind.title} ({kind.key}{'' if '.' in kind.key else '.name'})": kind.registry for kind in KINDS.values()
}
LEGEND = (
    "n vectors, f of them Byzantine. Robustness: its constants, (f, kappa) or (delta, c). Norm: F, a bound on the norm of "
    "the result divided by the largest norm of a vector. Cost: arithmetic beyond reading the n x d numbers."
)
MORE = (
    "`byzdist list KIND NAME` shows one of them with its parameters, their ranges and defaults, and `byzdist list SECTION` the keys of "
    "a section: " + ", ".join(sections()) + ". KIND is one of " + ", ".join(KINDS) + "."
)
INDENT = 26


def catalogue(kind: str | None = None, name: str | None = None) -> str:
    """Return the text of ``byzdist list``, wrapped to the terminal, or to 100 columns without a terminal.

    Args:
        kind: a kind of piece, a section, or the name of a piece; None for all kinds.
        name: a piece of that kind.

    Raises:
        ConfigError: for an unknown kind, section or piece.
    """
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    if kind is None:
        shown = [line for word in KINDS for line in ["", *_kind(word, width)]]
        return "\n".join([*shown[1:], "", *_wrap("", MORE, 0, width)])
    kind, name = _find(kind, name)
    if name is not None:
        return "\n".join(_piece(KINDS[kind], name, width))
    if kind in KINDS:
        return "\n".join(_kind(kind, width))
    return "\n".join([_titled(kind), *_settings(section_settings(kind), width)])


def as_json(kind: str | None = None, name: str | None = None) -> str:
    """Return the same as JSON: {kind: {name: {description, aliases, parameters, ...}}} and {section: {key: ...}}.

    A key or parameter has ``takes``, in words, ``required`` and ``default``.
    """
    if kind is not None:
        kind, name = _find(kind, name)
    kinds = {
        word: {piece: _facts(one, piece) for piece in one.registry if name in (None, piece)}
        for word, one in KINDS.items()
        if kind in (None, word)
    }
    keys = {section: _keys(section_settings(section)) for section in sections() if kind in (None, section)}
    return json.dumps(kinds | keys, indent=2)


def _find(word: str, name: str | None) -> tuple[str, str | None]:
    """Return the kind or section that ``word`` means, and the piece; ``word`` may be a piece's name alone."""
    spelled = {
        squeeze(alias): kind for kind, one in KINDS.items() for alias in (kind, one.title, one.key, one.registry.kind)
    }
    spelled |= {f"{alias}s": kind for alias, kind in spelled.items()} | {
        squeeze(section): section for section in sections()
    }
    found = spelled.get(squeeze(word))
    if found is None and name is None:
        found, name = next(((kind, word) for kind, one in KINDS.items() if word in one.registry), (None, None))
    if found is None:
        pieces = [piece for one in KINDS.values() for piece in one.registry] if name is None else []
        near = closest(word, [*KINDS, *sections(), *pieces])
        known = did_you_mean(word, [near] if near else [*KINDS, *sections()])
        raise ConfigError(f"list: {word!r} is not a kind, a section or a name.{known}")
    if name is not None and found not in KINDS:
        raise ConfigError(f"list: {found} is a section, whose keys have no names below them; leave {name!r} out.")
    if name is not None:
        KINDS[found].registry.get(name, f"list {found}")
        name = KINDS[found].registry.canonical(name)
    return found, name


def _titled(section: str) -> str:
    return "keys outside sections" if section == "run" else f"section {section}"


def _kind(word: str, width: int) -> list[str]:
    """Return the lines of all pieces of a kind."""
    kind = KINDS[word]
    lines = [next(title for title, registry in SECTIONS.items() if registry is kind.registry)]
    if kind.registry is RULES:
        lines += _wrap("", LEGEND, 4, width)
    for name in kind.registry:
        lines += _wrap(f"  {name}", kind.registry.describe(name), INDENT, width)
        if kind.registry is RULES:
            for key, text in known(RULES.get(name).facts).items():
                lines += _wrap(f"{'':{INDENT}}{key}", text, INDENT + 12, width)
    return lines


def _piece(kind: PieceKind, name: str, width: int) -> list[str]:
    """Return the lines of one piece: its documentation, its other names, its parameters."""
    aliases, settings = _aliases(kind, name), piece_settings(kind, name)
    lines = [f"{name} ({kind.registry.kind}, {kind.key})", ""]
    for paragraph in kind.registry.document(name).split("\n\n"):
        lines += [*_wrap("", " ".join(paragraph.split()), 2, width), ""]
    if isinstance(facts := getattr(kind.registry.get(name), "facts", None), Facts):
        for key, text in known(facts).items():
            lines += _wrap(f"  {key}", text, INDENT, width)
        lines.append("")
    if aliases:
        lines += [*_wrap("  also called", ", ".join(aliases), INDENT, width), ""]
    return lines + (_settings(settings, width) if settings else ["  It has no parameters."])


def _settings(settings: list[Setting], width: int) -> list[str]:
    return [line for setting in settings for line in _wrap(f"  {setting.name}", str(setting), INDENT, width)]


def _aliases(kind: PieceKind, name: str) -> list[str]:
    return sorted(alias for alias, meant in kind.registry.aliases.items() if meant == name)


def _facts(kind: PieceKind, name: str) -> dict[str, Any]:
    facts = getattr(kind.registry.get(name), "facts", None)
    return {
        "description": kind.registry.describe(name),
        "aliases": _aliases(kind, name),
        "parameters": _keys(piece_settings(kind, name)),
        **(known(facts) if isinstance(facts, Facts) else {}),
    }


def _keys(settings: list[Setting]) -> dict[str, dict[str, object]]:
    return {s.name: {"takes": s.wanted, "required": s.required, "default": s.default} for s in settings}


def known(facts: Facts) -> dict[str, str]:
    """Return what is shown of a rule's facts, by its title."""
    shown = {
        "breakdown": facts.breakdown,
        "robustness": facts.robustness or "no constants known",
        "norm": f"F = {facts.norm_formula}",
        "cost": facts.cost,
        "use": facts.use,
    }
    return {title: text for title, text in shown.items() if text}


def _wrap(head: str, text: str, indent: int, width: int) -> list[str]:
    """Return the lines of ``head``, then ``text`` from column ``indent`` on."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"{head:{indent}}" + (" " if len(head) >= indent > 0 else ""),
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
