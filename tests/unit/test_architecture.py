"""docs/architecture.md names the rooms in their order, and files that are there."""

import re
from pathlib import Path

import byzdist
from tests.unit.test_imports import ROOMS

PACKAGE = Path(byzdist.__file__).parent
TEXT = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()


def test_the_rooms_are_those_of_the_code_in_their_order():
    assert tuple(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == ROOMS


def test_every_path_that_is_named_is_there():
    named = set(re.findall(r"byzdist/[\w/]+(?:\.\w+)?", TEXT))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (PACKAGE.parent / name).exists()] == []
    assert all((PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file() for room in ROOMS[1:])
