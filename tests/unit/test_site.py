"""What the pages of the site say by hand is true of the program."""

import re
from pathlib import Path

import pytest
from scipy.stats import hypergeom

import byzdist

DOCS = Path(__file__).parents[2] / "docs"
MESSAGES = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def source():
    """Return the package's text with strings that are written in pieces made one, and {values} and %s as …."""
    text = "".join(path.read_text() for path in sorted(Path(byzdist.__file__).parent.rglob("*.py")))
    text = re.sub(r'"\s*\n\s*f?"', "", text)
    return re.sub(r"\{[^{}\n]*\}|%[-.\d]*[a-z]", "…", text)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_troubleshooting_explains_is_in_the_program(source, message):
    pattern = re.escape(message.strip("…")).replace("…", "[^\n]{0,120}?")
    assert re.search(pattern, source)


def test_troubleshooting_explains_many_messages_each_with_cause_and_remedy():
    sections = re.split(r"^### `.+`$", (DOCS / "troubleshooting.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) == len(MESSAGES) == len(set(MESSAGES)) > 30
    assert all("**Cause:**" in section and "**Remedy:**" in section for section in sections)


def test_the_probabilities_of_a_majority_are_right():
    table = re.findall(r"^\| (n \| B \| C.*|\d+ \| \d+ \|.*) \|$", (DOCS / "choosing.md").read_text(), re.MULTILINE)
    header, *rows = [[cell.strip() for cell in row.split("|")] for row in table]
    sizes = [int(cell.removeprefix("C = ")) for cell in header[2:]]
    assert len(rows) > 3
    for n, declared, *cells in rows:
        exact = [hypergeom.sf(size // 2, int(n), int(declared), size) for size in sizes]
        shown = [float(cell) / 100 for cell in cells]
        assert shown == pytest.approx(exact, rel=0.05, abs=1e-9)
