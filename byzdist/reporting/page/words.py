"""How the report spells numbers."""

from byzdist.reporting.page.html import Cell
from byzdist.words import spelled_bytes


def number(value: float | None, digits: int = 4) -> Cell:
    """Return a cell with a number; for None, a dash, which sorts last."""
    return Cell("–", float("inf")) if value is None else Cell(f"{value:.{digits}g}", value)


def count(value: float) -> Cell:
    """Return a cell with a whole number."""
    return Cell(f"{value:,.0f}", value)


def size(value: float) -> Cell:
    """Return a cell with a number of bytes."""
    return Cell(spelled_bytes(value), value)
