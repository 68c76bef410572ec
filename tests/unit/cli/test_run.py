"""`byzdist run`: a mistake is reported before anything starts."""

import re

import pytest
import yaml

from byzdist.cli.main import main
from byzdist.errors import RunError
from byzdist.runtime import launcher
from tests.support.cases import BASE
from tests.support.wrong import WRONG

GOOD = yaml.safe_dump(BASE)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An own working folder with a good configuration, from which no process is ever started."""

    def start(command, *_):
        raise AssertionError(f"started {command}")

    monkeypatch.setattr(launcher, "Job", start)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("BYZDIST_CACHE", str(tmp_path.parent / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    (tmp_path / "file").touch()
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "own.py").write_text("def five(*arguments):\n    return 5\n")
    (tmp_path / "config.yaml").write_text(GOOD)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.name != "__pycache__" and path.suffix != ".pyc")


@pytest.mark.parametrize("words, complaint", WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_configuration_is_refused_by_its_key_before_anything_starts(here, capsys, words, complaint):
    before = names(here)
    assert main(["run", "config.yaml", *words.split("\n")]) == 2
    error = capsys.readouterr().err
    assert re.match(rf"byzdist: {complaint}", error), error
    assert error.count("\n") == 1, "one line"
    assert names(here) == before


TEXTS: dict[str, tuple[str | bytes, str]] = {
    "an empty file": ("", "config.yaml: a configuration is a mapping of keys"),
    "no mapping": ("- a\n- b\n", "config.yaml: a configuration is a mapping of keys"),
    "a tab": ("name: x\n\trounds: 5\n", "config.yaml: not valid YAML: .*line 2"),
    "a key twice": (GOOD + "name: y\n", "config.yaml: not valid YAML: key 'name' is given twice"),
    "a key below twice": ("evaluate: {every: 1, every: 2}", "config.yaml: not valid YAML: key 'every' is given twice"),
    "an object": ("name: !!python/object/apply:os.system ['true']", "config.yaml: not valid YAML: .*constructor"),
    "an unclosed list": ("name: [", "config.yaml: not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "config.yaml: not valid YAML: expected a single document"),
    "a huge number": ("rounds: " + "9" * 5000, "config.yaml: not valid YAML: .*integer"),
    "no date": ("name: 2024-13-45", "config.yaml: not valid YAML: month"),
    "deep nesting": ("[" * 3000, "config.yaml: not valid YAML"),
    "a list as key": ("[a]: 1", "config.yaml: not valid YAML: .*unhashable"),
    "nothing as key": (GOOD + "~: 1", "configuration: a key must be text"),
    "bytes": (b"\xff\xfe\x00", "config.yaml: cannot read the configuration: .*utf-8"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_holds_no_configuration_is_refused(here, capsys, name):
    text, complaint = TEXTS[name]
    (here / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["run", "config.yaml"]) == 2
    assert re.match(rf"byzdist: {complaint}", capsys.readouterr().err)


@pytest.mark.parametrize("key", [key for key in BASE if key not in ("seed", "evaluate", "device", "dtype")])
def test_a_required_key_that_is_not_there_is_named(here, capsys, key):
    (here / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in BASE.items() if k != key}))
    assert main(["run", "config.yaml"]) == 2
    assert capsys.readouterr().err == f"byzdist: {key}: this key is required.\n"


@pytest.mark.parametrize("path, reason", [("nowhere.yaml", "No such file"), ("folder", "Is a directory")])
def test_a_missing_file_is_named(here, capsys, path, reason):
    assert main(["run", path]) == 2
    assert re.match(rf"byzdist: {path}: cannot read the configuration: {reason}", capsys.readouterr().err)


@pytest.mark.parametrize("words", [[], ["fly"], ["run"], ["run", "config.yaml", "--fly"], ["plot", "folder"]])
def test_a_wrong_command_line_ends_with_2_and_the_usage(here, capsys, words):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "usage: byzdist" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5", ""])
def test_a_wrong_number_of_workers_is_refused(here, capsys, number):
    with pytest.raises(SystemExit) as end:
        main(["run", "config.yaml", f"--workers={number}"])
    assert end.value.code == 2
    assert re.search(rf"--workers: '{number}' is not a whole number", capsys.readouterr().err)


def test_overrides_may_come_before_and_after_options(here, monkeypatch):
    def start(words, configuration, *_):
        started.append(yaml.safe_load(configuration))
        raise RunError("that is enough")

    started = []
    monkeypatch.setattr(launcher, "Job", start)
    words = ["run", "config.yaml", "rounds=3", "--workers", "2", "method.clip=none", "--out", "new", "seed=4"]
    assert main(words) == 1
    assert (started[0]["rounds"], started[0]["method"]["clip"], started[0]["seed"]) == (3, "none", 4)
