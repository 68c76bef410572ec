"""`byzdist list`: every piece and every key is shown, to people and to programs."""

import json
import re

import pytest

from byzdist.aggregation import RULES
from byzdist.cli.list.catalogue import SECTIONS, catalogue
from byzdist.cli.main import main
from byzdist.config.settings import KINDS, sections


def test_list_shows_every_name_with_a_description(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    described = {found[1]: found[2] for line in lines if (found := re.match(r"  (\S+)\s+(\S.*)", line))}
    for registry in SECTIONS.values():
        for name in registry:
            assert len(described[name]) >= 10, name
    some = ["byz_vr_marina_pp", "rand_k", "shift_back", "coordinate_median", "bucketing", "digits", "dirichlet", "mlp"]
    assert set(some) <= described.keys()


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_list_shows_what_is_known_of_each_rule_within_the_terminal(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns
    plain = " ".join(text.split())
    for name in RULES:
        facts = RULES.get(name).facts
        for key, words in (("breakdown", facts.breakdown), ("norm", f"F = {facts.norm_formula}"), ("cost", facts.cost)):
            assert f"{key} {words}" in plain, name
        assert f"robustness {facts.robustness or 'no constants known'}" in plain, name


@pytest.mark.parametrize("kind", KINDS)
def test_each_piece_is_shown_with_every_parameter(kind, capsys):
    for name in KINDS[kind].registry:
        assert main(["list", kind, name]) == 0
        text = capsys.readouterr().out
        for word, parameter in KINDS[kind].registry.parameters(name, "x").items():
            *_, line = re.findall(rf"^  {word} +(.*\n(?: {{26}}.*\n)*)", text, re.MULTILINE)
            default = "required" if parameter.default is parameter.empty else "default: "
            assert default in " ".join(line.split()), line


def test_a_piece_is_shown_with_its_ranges_defaults_and_other_names(capsys):
    assert main(["list", "attack", "a_little_is_enough"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("alie (attack, attack)\n") and "also called" in text
    assert re.search(r"z +number \(default: not set\)", text)
    main(["list", "pre", "bucketing"])
    assert re.search(r"size +integer, at least 1 \(default: 2\)", capsys.readouterr().out)
    main(["list", "compression", "rand_k"])
    text = capsys.readouterr().out
    assert re.search(r"ratio +number, greater than 0, at most 1 \(required\)", text)
    assert re.search(r"support +'independent' or 'shared' \(default: 'independent'\)", text)


@pytest.mark.parametrize("word", ["rule", "rules", "aggregation.rule", "aggregation rules", "Rules"])
def test_a_kind_has_several_words(word):
    assert catalogue(word) == catalogue("rule")


def test_a_piece_is_found_by_its_name_alone():
    assert catalogue("krum") == catalogue("rule", "krum") and catalogue("median") == catalogue(
        "rule", "coordinate_median"
    )


@pytest.mark.parametrize("section", sections())
def test_each_section_is_shown_with_every_key(section, capsys):
    assert main(["list", section]) == 0
    shown = set(re.findall(r"^  (\w+) ", capsys.readouterr().out, re.MULTILINE))
    own = set(sections()[section].model_fields)
    assert shown == (own - set(sections()) if section == "run" else own)


def test_a_key_is_shown_with_what_it_is_for(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (line,) = (line for line in catalogue("transport").splitlines() if line.startswith("  deadline "))
    assert line.endswith("number, greater than 0 (default: 30.0): the longest wait for a round's replies, in seconds.")


def test_the_catalogue_can_be_read_by_a_program(capsys):
    assert main(["list", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert set(whole) == {*KINDS, *sections()}
    assert {kind: set(whole[kind]) for kind in KINDS} == {kind: set(one.registry) for kind, one in KINDS.items()}
    assert whole["rule"]["krum"]["parameters"]["margin"] == {
        "takes": "integer, at least 1",
        "required": False,
        "default": 2,
    }
    assert whole["transport"]["deadline"]["default"] == 30.0 and whole["clients"]["count"]["required"]
    main(["list", "rule", "median", "--json"])
    assert json.loads(capsys.readouterr().out) == {"rule": {"coordinate_median": whole["rule"]["coordinate_median"]}}


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["rul"], "'rul' is not a kind, a section or a name. Did you mean 'rule'?"),
        (["rounds=3"], "'rounds=3' is not a kind"),
        (["krumm"], "'krumm' is not a kind, a section or a name. Did you mean 'krum'?"),
        (["rule", "krumm"], "list rule: unknown rule 'krumm'. Did you mean 'krum'?"),
        (["transport", "star"], "transport is a section"),
        (["qqqqq", "krum"], "'qqqqq' is not a kind, a section or a name. Known: "),
    ],
)
def test_what_is_not_in_the_catalogue_is_told(words, complaint, capsys):
    assert main(["list", *words]) == 2
    assert complaint in capsys.readouterr().err
