"""HTML in which every text is escaped, unless this module or `byzdist.reporting.page.svg` made it."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_VOID = frozenset({"meta"})


class Html(str):
    """A piece of a page, complete and escaped."""


class Cell(NamedTuple):
    """A cell of a table: what it shows, and the number by which its column is sorted; None: by the text."""

    text: str
    number: float | None = None


def element(tag: str, *children: str, **attributes: str) -> Html:
    """Return an element; a child that is not `Html` is text.

    Args:
        tag: its name.
        children: what is in it.
        attributes: their names as Python allows them: ``class_``, ``data_sort``.
    """
    words = "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in attributes.items())
    inside = join(*children)
    return Html(f"<{tag}{words}>" if tag in _VOID else f"<{tag}{words}>{inside}</{tag}>")


def join(*children: str) -> Html:
    """Return pieces and texts one after the other."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children))


def section(title: str, *children: str, folded: bool = False) -> Html:
    """Return a section with a heading; ``folded``: one that the reader opens."""
    if folded:
        return element("details", element("summary", element("h2", title)), *children)
    return element("section", element("h2", title), *children)


def table(head: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, sortable: bool = False) -> Html:
    """Return a table; ``sortable``: whose headings sort it."""

    def data(cell: str | Cell) -> Html:
        if not isinstance(cell, Cell):
            return element("td", cell)
        sort = {} if cell.number is None else {"data_sort": repr(cell.number)}
        return element("td", cell.text, class_="number", **sort)

    heads = [element("th", element("button", text, type="button") if sortable else text, scope="col") for text in head]
    body = [element("tr", *map(data, row)) for row in rows]
    inside = (element("thead", element("tr", *heads)), element("tbody", *body))
    attributes = {"class_": "sortable"} if sortable else {}
    return element("div", element("table", *inside, **attributes), class_="wide")


def facts(pairs: Sequence[tuple[str, str]]) -> Html:
    """Return a list of names and values."""
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs))
