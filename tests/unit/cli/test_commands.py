"""Wrong words on the command line, and the commands that only show or write something."""

import json
import logging
import re
import shlex
import sys
from importlib.resources import files

import pytest
import torch
import yaml

from byzdist import cli
from byzdist.cli.list.catalogue import catalogue
from byzdist.cli.main import main
from byzdist.cli.new import FILES
from byzdist.config.reading import load, parse
from byzdist.config.settings import KINDS, sections
from byzdist.config.yaml_reading import read_yaml
from byzdist.errors import ConfigError
from tests.support.cases import BASE
from tests.support.harness import ROOT
from tests.support.inprocess import train_in

WRONG = {
    "trian config.yaml": "'trian' is not a command. Did you mean 'run'?",
    "train config.yaml": "'train' is not a command. Did you mean 'run'?",
    "eval runs/x": "'eval' is not a command. Did you mean 'evaluate'?",
    "lst": "'lst' is not a command. Did you mean 'list'?",
    "validate config.yaml": "'validate' is not a command. Did you mean 'check'?",
    "init here": "'init' is not a command. Did you mean 'new'?",
    "graph runs/x": "'graph' is not a command. Did you mean 'plot'?",
    "config.yaml": "'config.yaml' is not a command. Did you mean: byzdist run config.yaml?",
    "qqqqqqq": "'qqqqqqq' is not a command. Commands: new, check, run,",
    "run config.yaml --worker 3": "--worker: there is no such option. Did you mean --workers?",
    "run config.yaml --work=3": "--work: there is no such option. Did you mean --workers?",
    "run config.yaml --n-workers 3": "--n-workers: there is no such option. Did you mean --workers?",
    "run config.yaml --resum": "--resum: there is no such option. Did you mean --resume?",
    "run config.yaml --max 3": "--max: there is no such option. Did you mean --max-restarts?",
    "run config.yaml --output-dir x": "--output-dir: there is no such option. Did you mean --out?",
    "run config.yaml --rounds 30": "--rounds: there is no such option. rounds is a key of the configuration: write rounds=VALUE.",
    "run config.yaml --rounds=30": "rounds is a key of the configuration: write rounds=30.",
    "run config.yaml --lr 0.1": "method.step_size is a key of the configuration: write method.step_size=VALUE.",
    "run config.yaml --method.clip=none": "method.clip is a key of the configuration: write method.clip=none.",
    "run config.yaml --qqqqqq": "--qqqqqq: there is no such option. Options: --help, --workers, --out, --resume, --local, --max-restarts.",
    "run config.yaml -w 3": "-w: there is no such option.",
    "run rounds=3": "CONFIG, a YAML file, comes first, before 'rounds=3'",
    "run rounds=3 config.yaml": "CONFIG, a YAML file, comes first, before 'rounds=3'",
    "run config.yaml --workers": "argument --workers: expected one argument",
    "run config.yaml --workers=ten": "argument --workers: 'ten' is not a whole number of at least 1",
    "run config.yaml --max-restarts=-1": "argument --max-restarts: '-1' is not a whole number of at least 0",
    "list rule krum more": "unrecognized arguments: more",
    "list --jsn": "--jsn: there is no such option. Did you mean --json?",
    "check": "the following arguments are required: CONFIG\n",
    "run": "the following arguments are required: CONFIG\n",
    "evaluate": "the following arguments are required: DIR\n",
    "new": "the following arguments are required: DIR",
    "doctor now": "unrecognized arguments: now",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_word_on_the_command_line_is_answered_with_the_one_that_was_meant(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE))
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line))
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith("usage: byzdist") and WRONG[line] in error.splitlines(keepends=True)[-1], error


def test_words_around_an_equals_sign_are_told_to_come_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE))
    assert main(["check", "config.yaml", "rounds", "=", "30"]) == 2
    assert "'rounds': an override has the form key=value, without blanks" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["rounds=3e3"], ["rounds=3000"], ["rounds=3.0e+3"]])
def test_three_thousand_rounds_can_be_written_as_a_power_of_ten(words, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE))
    assert load(tmp_path / "config.yaml", words).rounds == 3000
    key, _, value = words[0].partition("=")
    (tmp_path / "file.yaml").write_text(yaml.safe_dump({**BASE, key: None}).replace("rounds: null", f"rounds: {value}"))
    assert load(tmp_path / "file.yaml").rounds == 3000


def test_a_command_is_found_by_its_file_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "greet.py").write_text(
        "HELP = 'greet somebody'\n"
        "def add_arguments(parser): parser.add_argument('--loud', action='store_true')\n"
        "def run(arguments): print('HELLO' if arguments.loud else 'hello'); return 3\n"
    )
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    assert main(["greet", "--loud"]) == 3 and capsys.readouterr().out == "HELLO\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert shown == ["new", "check", "run", "keys", "evaluate", "list", "doctor", "plot", "greet"]
    with pytest.raises(SystemExit):
        main(["gret"])
    assert "Did you mean 'greet'?" in capsys.readouterr().err


# byzdist list


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


# byzdist check


def test_check_shows_a_complete_configuration_that_runs_again(tmp_path, capsys):
    tree = {key: value for key, value in BASE.items() if key != "evaluate"}
    tree["method"] = {key: value for key, value in BASE["method"].items() if key != "p"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert main(["check", str(tmp_path / "config.yaml"), "rounds=7"]) == 0
    text = capsys.readouterr().out
    complete = parse(read_yaml(text, "check"))
    method = complete.method.parameters
    assert complete.rounds == 7 and complete.evaluate.every == 50
    assert method["p"] == min(5 / 9, 8 / 90, 1.0) and method["full_cohort"] == 9
    assert "# clients: 9, 4 of them Byzantine; each holds 90 samples" in text
    assert "# data: 90 samples of 12 features, 2 classes" in text and "# model: 12 parameters in float64" in text
    assert "# rounds: 7; a sampled round asks 5 clients, a full one 9" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"], "it writes nothing"


def test_check_refuses_what_can_be_seen_only_with_the_data(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE))
    assert main(["check", str(tmp_path / "config.yaml"), "model=cnn"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "'cnn' wants images" in captured.err


# byzdist new


@pytest.fixture
def kept_path():
    """Modules are looked for where they were before, once the test is over."""
    before = [*sys.path]
    yield
    sys.path[:] = before


def test_what_is_written_to_begin_with_runs_as_it_is_and_learns(tmp_path, capsys, caplog, kept_path):
    folder = tmp_path / "a" / "mine"
    assert main(["new", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert f"cd {folder} && byzdist run config.yaml" in capsys.readouterr().out
    for name in ("config.yaml", "quickstart.yaml"):
        with caplog.at_level(logging.WARNING, logger="byzdist"):
            assert main(["check", str(folder / name)]) == 0
        assert not caplog.messages, "a first configuration is a sound one"
    config = load(folder / "config.yaml", ["device=cpu", "rounds=100", "evaluate.every=100"])
    train_in(config.model_dump(exclude_none=True), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["accuracy"] > 0.8
    assert torch.load(tmp_path / "run" / "model.pt", weights_only=True)["1.weight"].shape == (32, 64)


def test_new_overwrites_nothing(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("precious")
    assert main(["new", str(tmp_path)]) == 2
    assert f"{tmp_path / 'mine.py'}: there already, and nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert (tmp_path / "mine.py").read_text() == "precious"


def test_new_says_where_it_cannot_write(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["new", str(tmp_path / "file" / "below")]) == 2
    assert "cannot write there: Not a directory" in capsys.readouterr().err


def test_the_quickstart_that_comes_along_is_the_one_of_the_readme():
    assert (files("byzdist.cli.new") / "quickstart.yaml").read_text() == (ROOT / "configs/quickstart.yaml").read_text()


def test_a_run_can_be_evaluated_from_the_folder_of_its_module(tmp_path, monkeypatch, kept_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_of_here.py").write_text(
        "import torch\ndef net(feature_shape, classes): return torch.nn.Linear(feature_shape[0], classes)\n"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**BASE, "model": "mine_of_here:net"}))
    assert load("run/config.yaml").model.name == "mine_of_here:net"


def test_a_module_beside_the_configuration_never_hides_an_installed_one(tmp_path, kept_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**BASE, "model": "json:nothing"}))
    (tmp_path / "json.py").write_text("def nothing(feature_shape, classes): ...\n")
    with pytest.raises(ConfigError, match="cannot import 'json:nothing'"):
        load(tmp_path / "config.yaml")
