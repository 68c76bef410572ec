"""The command line: wrong words, and how a command is found."""

import re
import shlex

import pytest
import yaml

from byzdist import cli
from byzdist.cli.main import main
from byzdist.config.reading import load
from tests.support.cases import BASE

WRONG = {
    "trian config.yaml": "'trian' is not a command. Did you mean 'run'?",
    "train config.yaml": "'train' is not a command. Did you mean 'run'?",
    "eval runs/x": "'eval' is not a command. Did you mean 'evaluate'?",
    "lst": "'lst' is not a command. Did you mean 'list'?",
    "validate config.yaml": "'validate' is not a command. Did you mean 'check'?",
    "init here": "'init' is not a command. Did you mean 'new'?",
    "graph runs/x": "'graph' is not a command. Did you mean 'plot'?",
    "config.yaml": "'config.yaml' is not a command. Did you mean: byzdist run config.yaml?",
    "qqqqqqq": "'qqqqqqq' is not a command. Commands: new, check, plan, run,",
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
    assert "'rounds': an override has the form key=value, without spaces" in capsys.readouterr().err


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
    assert shown == [
        "new",
        "check",
        "plan",
        "run",
        "sweep",
        "table",
        "keys",
        "evaluate",
        "list",
        "doctor",
        "plot",
        "report",
        "greet",
    ]
    with pytest.raises(SystemExit):
        main(["gret"])
    assert "Did you mean 'greet'?" in capsys.readouterr().err
