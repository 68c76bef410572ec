"""Every paper that the package cites is in docs/references.md, with its mark, its first author, its venue and its year."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import byzdist
from byzdist.config.settings import KINDS

PACKAGE = Path(byzdist.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "references.md"
ENTRIES = [" ".join(entry.split()) for entry in re.split(r"^\* ", PAGE.read_text(), flags=re.MULTILINE)[1:]]

# [BRPP Alg. 1], [Allouah et al. 2023, for margin 1]; but no C code, such as sums[TILE]
MARK = re.compile(r"(?<![\w\]])\[([A-Z][\w.,' -]*?(?:\d{4}\w?|[A-Z]{2,}))(?=[\],; ])")
NAME = r"(?:El |De )?[A-Z][\w'-]+"
VENUE = r"[A-Z][A-Za-z-]+(?: [A-Z]{2,})?"
# Yin et al., "Title", ICML 2018; Gupta, Liu, Vaidya, 2021; (He et al. 2016)
CITED = re.compile(rf"({NAME})((?:, {NAME})+| et al\.)(?:,? \"([^\"]+)\")?,? ?((?:{VENUE} )?)((?:19|20)\d\d\b)")


def texts(source):
    """Return the strings of a Python text, each with its spaces made one: docstrings, and what is written in pieces."""
    return [
        " ".join(node.value.split())
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def cited(text):
    """Return (first author, title, venue, year) of each citation by names; title and venue may be ""."""
    return [(first, title, venue.strip(), year) for first, _, title, venue, year in CITED.findall(text)]


def is_listed(first, title, venue, year):
    found = [entry for entry in ENTRIES if re.match(rf"(\*\*\[.*?\]\*\* )?{re.escape(first)}\b", entry)]
    return any(title.lower() in entry.lower() and f"{venue} {year}".strip() in entry for entry in found)


@cache
def everywhere():
    """Return the texts of the package's modules, each with its module."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [(path.relative_to(PACKAGE), text) for path in paths for text in texts(path.read_text())]


def test_every_mark_is_expanded():
    marks = {mark for _, text in everywhere() for mark in MARK.findall(text)}
    assert {"BRPP", "Allouah et al. 2023b", "Gupta et al. 2021"} <= marks
    expanded = {mark for entry in ENTRIES for mark in re.findall(r"\*\*\[(.*?)\]\*\*", entry)}
    assert marks == expanded


def test_every_citation_is_listed():
    found = {(str(path), *citation) for path, text in everywhere() for citation in cited(text)}
    assert len({citation[1:] for citation in found}) > 20
    assert sorted(citation for citation in found if not is_listed(*citation[1:])) == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ('Yin et al., "On Rates", ICML 2018.', ("Yin", "On Rates", "ICML", "2018")),
        ("(Karimireddy et al., ICML 2021)", ("Karimireddy", "", "ICML", "2021")),
        ("Gupta, Liu, Vaidya, 2021.", ("Gupta", "", "", "2021")),
        ('El Mhamdi, Guerraoui, "Resilience", 2019', ("El Mhamdi", "Resilience", "", "2019")),
        ("ResNet-18 (He et al. 2016)", ("He", "", "", "2016")),
        ('Pillutla, Kakade, "Robust", IEEE TSP 2022', ("Pillutla", "Robust", "IEEE TSP", "2022")),
    ],
)
def test_a_citation_is_read_however_it_is_written(text, expected):
    assert cited(text) == [expected]
    assert not is_listed("Nobody", "", "", "2021") and not is_listed("Yin", "", "ICLR", "2018")


def test_the_pieces_that_the_page_names_are_there():
    names = {name for kind in KINDS.values() for name in kind.registry}
    named = {name for entry in ENTRIES for name in re.findall(r"`([a-z_0-9]+)`", entry)}
    assert len(named) > 20 and named <= names
