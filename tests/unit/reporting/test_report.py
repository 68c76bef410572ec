"""The report is one page that needs nothing else, says what the folder says, and escapes it."""

import json
import re
from html.parser import HTMLParser

import pytest

from byzdist.cli.main import main
from byzdist.errors import ConfigError
from byzdist.reporting.page import sweep
from byzdist.reporting.page.conduct import conspicuous
from byzdist.reporting.page.html import Cell, element, table
from byzdist.reporting.page.report import report
from byzdist.reporting.page.sweep import facets
from byzdist.reporting.pictures.history import read_history
from tests.support.folders import grid, run_folder

HOSTILE = "<script>alert('x')</script><img src=//evil.example/x onerror=y>"


class Page(HTMLParser):
    """Takes a page apart: its elements with their attributes, the text of each kind of element, and what is left open."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open[-1:]:
            self.texts.setdefault(tag, []).append(data)


def read(folder):
    text = report(folder)
    page = Page(text)
    assert page.open == []
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base"), "the page is whole"
        for name in ("src", "href", "xlink:href"):
            assert re.match(r"#|data:image/png;base64,", attributes.get(name, "#")), attributes
    assert not re.search(r"https?:|url\((?!#)|@import", text), "nothing is fetched"
    return page


def test_text_is_escaped_and_html_is_not():
    assert element("p", "a<b", element("b", "&"), title='"') == '<p title="&quot;">a&lt;b<b>&amp;</b></p>'
    assert 'data-sort="2.5"' in table(["x"], [[Cell("2.5 kB", 2.5)]])


def test_a_hostile_run_is_text(tmp_path):
    lines = {3: {"missing": {"2": HOSTILE}, "news": [HOSTILE], "untrusted": HOSTILE}}
    folder = run_folder(tmp_path / "run", [1.0, 0.5], HOSTILE, {"name": HOSTILE, "attack.name": HOSTILE}, lines)
    (folder / "run.json").write_text(json.dumps({"byzdist": HOSTILE, "host": {"system": HOSTILE}}))
    page = read(folder)
    assert [tag for tag, _ in page.elements].count("script") == 1 and "img" not in [tag for tag, _ in page.elements]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.texts["h1"] == [HOSTILE] and HOSTILE in page.texts["td"] and HOSTILE in page.texts["span"]


def test_a_run_is_reported_as_its_folder_has_it(tmp_path):
    lines = {
        2: {"missing": {"3": "late"}},
        3: {"missing": {"3": "not finite", "1": "late"}},
        4: {"news": ["client 3 is in quarantine after 2 offences, the last: not finite"], "byzantine": 3},
    }
    settings = {"clients.count": 4, "clients.byzantine": 1, "method.clip": 2.5}
    folder = run_folder(tmp_path / "run", [1.0, 0.25], settings=settings, lines=lines)
    worst, other = conspicuous(read_history(folder))
    assert (worst.client, worst.asked, worst.missing) == (3, 11, 2)
    assert worst.reasons == {"late": 1, "not finite": 1}
    assert worst.quarantine == "after 2 offences in round 4: not finite"
    assert (other.client, other.missing, other.quarantine) == (1, 1, "")
    page = read(folder)
    figures = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert (
        figures["last loss"] == "0.25" and figures["last accuracy"] == "0.75" and figures["last round"] == "10 of 100"
    )
    assert figures["missing replies"] == "3 of 44" and figures["Byzantine majorities"] == "1 of 11 rounds"
    assert figures["uplink"] == "1.1 kB" and figures["time in rounds"] == "5.5 s" and figures["byzdist"] == "0.0.1"
    cells = page.texts["td"]
    assert {"Byzantine", "honest", "method.clip", "2.5"} <= set(cells)
    assert page.texts["pre"] == [f"byzdist run {folder}/config.yaml --out NEW_FOLDER"]
    assert [tag for tag, _ in page.elements].count("svg") == 2


@pytest.mark.parametrize(
    ("losses", "status", "words"),
    [
        ([0.5], "", "An unfinished run goes on, or was killed; the report shows how far it had come."),
        ([], "", "Nothing has been evaluated yet."),
        ([0.5, None], "diverged", "it is diverged"),
    ],
)
def test_a_run_in_any_state_has_a_report(tmp_path, losses, status, words):
    folder = run_folder(tmp_path / "run", losses, status, every=1)
    assert words in read(folder).texts["p"]


def test_a_sweep_is_reported_with_its_differences_and_runs(tmp_path):
    folder = grid(tmp_path / "sweep", diverging=("mean", "ipm", 2))
    run_folder(folder / "krum-alie-9", [], "", {"aggregation.rule.name": "krum", "attack.name": "alie", "seed": 9})
    (folder / "runs.csv").write_text("folder,status,reason\nkrum-alie-0,finished,\nlost,failed,<b>no memory\n")
    page = read(folder)
    lost = page.texts["td"].index("lost")
    assert page.texts["td"][lost : lost + 3] == ["lost", "failed", "<b>no memory"]
    assert page.texts["td"].count("krum-alie-0") == 2  # with its reason, and among the runs
    assert page.texts["span"] == ["11 finished", "1 unfinished", "1 diverged"]
    assert page.texts["h1"] == ["sweep"]
    cells = page.texts["td"]
    assert {"aggregation.rule", "krum, mean", "attack", "alie, ipm", "0, 1, 2, 9", "mean-ipm-2"} <= set(cells)
    assert [tag for tag, _ in page.elements].count("svg") == 2  # facets and a heat map
    sorts = [float(attributes["data-sort"]) for _, attributes in page.elements if "data-sort" in attributes]
    assert 11 in sorts and 21 in sorts  # rounds of the diverged run and of the others
    pictures = [attributes["aria-label"] for _, attributes in page.elements if "aria-label" in attributes]
    assert pictures == ["accuracy by aggregation.rule and attack", "last accuracy by aggregation.rule and attack"]


def test_facets_are_of_the_first_two_keys_with_few_panels():
    assert facets({"attack": 5, "method.step_size": 9, "method.clip": 4}) == ("attack", "method.clip")
    assert facets({"attack": 5, "method.clip": 4, "method.step_size": 2}) == ("attack", "method.clip")
    assert facets({"attack": 31, "method.clip": 6, "method.step_size": 5}) == ("method.clip", "method.step_size")
    assert facets({"attack": 31, "method.clip": 2}) is facets({"attack": 5}) is None


def test_a_heat_map_for_each_combination_of_the_other_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "inline", lambda runs, view, what: element("p", f"{len(runs)} runs: {what}"))
    for number in range(8):
        clip, step = ("none", 0.2) if number % 2 else (3, 0.3)
        names = {
            "attack.name": ("alie", "ipm")[number // 2 % 2],
            "aggregation.rule.name": ("krum", "mean")[number // 4],
        }
        settings = {**names, "method.step_size": step, "method.clip": clip}
        run_folder(tmp_path / "sweep" / f"{number}", [1.0, 0.5], settings=settings)
    page = read(tmp_path / "sweep")
    what = "4 runs: last accuracy by aggregation.rule and attack"
    both = ["method.clip: 3, method.step_size: 0.3", "method.clip: none, method.step_size: 0.2"]
    assert page.texts["h3"] == both
    assert [text for text in page.texts["p"] if "last accuracy" in text] == [f"{what}, {each}" for each in both]


def test_the_command_writes_the_page_and_refuses_what_it_cannot(tmp_path, capsys):
    folder = run_folder(tmp_path / "run", [], "")
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"wrote {folder}/report.html\n"
    assert (folder / "report.html").read_text().startswith("<!doctype html>\n<html")
    assert main(["report", str(folder), "-o", str(tmp_path / "missing" / "x.html")]) == 2
    assert "-o: cannot write the report" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="holds no run"):
        report(tmp_path / "nothing")
