"""Counts lines of code, without blank lines, comments and docstrings. Run: python count.py FILE..."""

import ast
import sys
from pathlib import Path


def lines(text: str) -> int:
    """Return how many lines of code a program has."""
    of_docstrings = set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            of_docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    code = (line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in of_docstrings)
    return sum(1 for line in code if line and not line.startswith("#"))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{lines(Path(name).read_text()):4d}  {name}")
