"""The pages that the site makes from the registries; .ci/run builds the whole of it."""

import re

import numpy as np
import pytest
from website import pieces
from website.figures import PICTURES, rule_figure, rules_legend
from website.formulas import drawn

from byzdist.aggregation import RULES
from byzdist.aggregation.rules import Facts, minority, span_rule
from byzdist.config.settings import KINDS


@pytest.mark.parametrize("word", KINDS)
def test_the_page_of_a_kind_has_every_piece_with_its_names_and_parameters(word):
    page, registry = pieces.page(word), KINDS[word].registry
    assert re.findall(r"^## (\w+) ", page, re.MULTILINE) == list(registry)
    for name, section in zip(registry, re.split(r"^## .*$", page, flags=re.MULTILINE)[1:], strict=True):
        assert set(registry.parameters(name, "x")) <= set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
        assert all(f"`{alias}`" in section for alias, meant in registry.aliases.items() if meant == name)
        if word in ("rule", "pre"):
            assert "<svg" in section
        if word == "rule":
            assert f"$$\n{RULES.get(name).facts.formula}\n$$" in section and "| **use** |" in section


def test_a_new_rule_appears_by_itself(monkeypatch):
    monkeypatch.setattr(RULES, "_entries", dict(RULES._entries))

    @span_rule("first", Facts(minority, "0 [a guess]", "none", cost="$1 | *", use="Never."))
    def first(points, f):
        """Take the first vector, ``v_1 < {v_2}``, or {v_1}."""
        return np.eye(points.size)[0]

    page = pieces.page("rule")
    section = page.partition("## first ")[2].partition("\n## ")[0]
    assert r"0 \[a guess\]" in section and r"\$1 \| \*" in section and r"vector, `v_1 < {v_2}`, or \{v\_1\}." in section
    assert "[first](rule.md#first)" in pieces.overview() and "<svg" in section and "$$" not in section


def curve(picture):
    """Return the last height of the curve in a rule's picture, downwards, in the picture's units."""
    points = re.search(r'<path d="M([^"]+)" class="way strong"', picture)[1].split(" L")
    return [tuple(map(float, point.split())) for point in points]


def test_the_picture_shows_which_rule_breaks():
    broken, robust = (curve(rule_figure(name)) for name in ("mean", "geometric_median"))
    heights = [height for _, height in broken]  # downwards
    assert heights[-60:] == sorted(heights[-60:], reverse=True) and heights[-1] < 30
    assert 120 < robust[-1][1] == pytest.approx(robust[-60][1], abs=2)


def test_every_picture_is_drawn_and_every_formula_can_be():
    for draw in [*PICTURES.values(), rules_legend]:
        assert "nan" not in draw() and "<svg" in draw()
    for name in RULES:
        assert '<path d="M' in drawn(RULES.get(name).facts.formula, display=True)
    with pytest.raises(ValueError, match="Unknown symbol"):
        drawn(r"\nothing", display=False)
