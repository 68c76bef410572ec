"""A table as text, CSV, JSON, LaTeX or Markdown."""

import csv
import io
import json
import re
from collections.abc import Callable

from byzdist.sweeping.table import Cell, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "—": "---",
} | {letter: f"\\{letter}" for letter in "&%$#_{}"}


def shown(cell: Cell) -> str:
    """Return a cell as people read it: ``0.912 ± 0.004``, and in brackets what was lost and what was chosen."""
    mean, error = cell.mean, cell.error
    text = "—" if mean is None else f"{mean:.4g}" if error is None else f"{mean:.4g} ± {error:.2g}"
    notes = [*(f"{count} {status}" for status, count in cell.lost.items()), *cell.chosen]
    return f"{text} ({', '.join(notes)})" if notes else text


def _rows(table: Table) -> list[list[str]]:
    head = [" \\ ".join(table.request.outer), *table.columns]
    body = [[row, *(_at(table, row, column) for column in table.columns)] for row in table.rows]
    return [head, *body]


def _at(table: Table, row: str, column: str) -> str:
    """Return a cell as people read it; "no run" if the study has none there."""
    cell = table.cells.get((row, column))
    return "no run" if cell is None else shown(cell)


def text(table: Table) -> str:
    """Return columns of equal width."""
    rows = _rows(table)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", table.caption])


def markdown(table: Table) -> str:
    """Return a table of GitHub's Markdown."""
    head, *body = [[word.replace("\\", "\\\\").replace("|", "\\|") for word in row] for row in _rows(table)]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", table.caption])


def latex(table: Table) -> str:
    """Return a table environment that needs no package."""
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in _rows(table)]
    columns = "l" * (1 + len(table.columns))
    begin = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{_escaped(table.caption)}}}",
        f"\\begin{{tabular}}{{{columns}}}",
    ]
    return "\n".join([*begin, r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", r"\end{tabular}", r"\end{table}"])


def _escaped(words: str) -> str:
    return re.sub(r"[\\~^±—&%$#_{}]", lambda found: _SPECIAL[found[0]], words)


def _records(table: Table) -> list[dict[str, object]]:
    return [
        {
            **dict(zip(table.request.outer, (row, column), strict=False)),
            "mean": cell.mean,
            "standard_error": cell.error,
            "runs": len(cell.values),
            "lost": dict(cell.lost),
            "chosen": list(cell.chosen),
        }
        for (row, column), cell in table.cells.items()
    ]


def as_csv(table: Table) -> str:
    """Return a line for each cell."""
    records = _records(table)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record, cell in zip(records, table.cells.values(), strict=True):
        lost = "; ".join(f"{count} {status}" for status, count in cell.lost.items())
        writer.writerow(record | {"lost": lost, "chosen": "; ".join(cell.chosen)})
    return out.getvalue().rstrip("\n")


def as_json(table: Table) -> str:
    """Return the cells and the caption."""
    return json.dumps({"caption": table.caption, "cells": _records(table)}, indent=2, ensure_ascii=False)


FORMATS: dict[str, Callable[[Table], str]] = {
    "text": text,
    "csv": as_csv,
    "json": as_json,
    "latex": latex,
    "markdown": markdown,
}
