"""A page for each kind of piece, from the registries: what `byzdist list` shows, with formulas and pictures."""

import re
from collections.abc import Iterator

from byzdist.aggregation import PRE, RULES, Facts
from byzdist.cli.list.catalogue import LEGEND, known
from byzdist.config.settings import KINDS, PieceKind, piece_settings
from byzdist.words import shown
from website.figures import is_drawable, rule_figure, rules_legend, step_figure


def overview() -> str:
    """Return the page that names all pieces."""
    lines = [
        "# Pieces",
        "",
        "Everything that a configuration can name. These pages are made from the registries, as `byzdist list` is: a new piece "
        "appears by itself. [Adding a piece](../contributing.md#adding-a-piece) has an example of each kind.",
        "",
        "| kind | key | names |",
        "| --- | --- | --- |",
    ]
    for word, kind in KINDS.items():
        names = ", ".join(f"[{name}]({word}.md#{name})" for name in kind.registry)
        lines.append(f"| [{title(word)}]({word}.md) | `{_key(kind)}` | {names} |")
    return "\n".join(lines)


def page(word: str) -> str:
    """Return the page of a kind below its introduction."""
    return "\n".join(_page(word, KINDS[word]))


def title(word: str) -> str:
    """Return the title of a kind's page."""
    words = KINDS[word].title
    return words[0].upper() + words[1:]


def _key(kind: PieceKind) -> str:
    return kind.key if "." in kind.key else f"{kind.key}.name"


def _page(word: str, kind: PieceKind) -> Iterator[str]:
    yield f"A configuration names one as `{_key(kind)}`. `byzdist list {word} NAME` shows the same as this page.\n"
    if kind.registry is RULES:
        yield f"{LEGEND}\n\n{_comparison()}\n\n{rules_legend()}\n"
    elif kind.registry is PRE:
        yield f"{rules_legend()}\n"
    for name in kind.registry:
        yield from _piece(word, kind, name)


def _comparison() -> str:
    lines = ["| rule | breakdown | when to use it |", "| --- | --- | --- |"]
    for name in RULES:
        facts = RULES.get(name).facts
        lines.append(f"| [{name}](#{name}) | {_prose(facts.breakdown)} | {_prose(facts.use)} |")
    return "\n".join(lines)


def _piece(word: str, kind: PieceKind, name: str) -> Iterator[str]:
    registry = kind.registry
    first, *rest = registry.document(name).split("\n\n")
    yield f"## {name} {{ #{name} }}\n\n{_prose(first)}\n"
    facts = getattr(registry.get(name), "facts", None)
    if isinstance(facts, Facts) and facts.formula:
        yield f"$$\n{facts.formula}\n$$\n"
    parameters = registry.parameters(name, word)
    draw = rule_figure if registry is RULES else step_figure if registry is PRE else None
    if draw is not None and is_drawable(name, parameters):
        yield f"{draw(name)}\n"
    for paragraph in rest:
        yield f"{_prose(paragraph)}\n"
    if isinstance(facts, Facts):
        yield "| | what is known |\n| --- | --- |"
        for title, words in known(facts).items():
            yield f"| **{title}** | {_prose(words)} |"
        yield ""
    aliases = sorted(alias for alias, meant in registry.aliases.items() if meant == name)
    if aliases:
        yield f"Also called {', '.join(f'`{alias}`' for alias in aliases)}.\n"
    settings = piece_settings(kind, name)
    if settings:
        yield "| parameter | takes | default |\n| --- | --- | --- |"
        for one in settings:
            default = "required" if one.required else "not set" if one.default is None else f"`{shown(one.default)}`"
            yield f"| `{one.name}` | {_prose(one.wanted)} | {default} |"
        yield ""


def _prose(paragraph: str) -> str:
    """Return a paragraph of a docstring as Markdown: outside backticks its brackets, stars and dollars are no markup."""
    parts = " ".join(paragraph.split()).replace("``", "`").split("`")
    return "`".join(part if i % 2 else _plain(part) for i, part in enumerate(parts))


def _plain(words: str) -> str:
    return re.sub(r"([\[\]{}*_$|])", r"\\\1", words).replace("<", "&lt;").replace(">", "&gt;")
