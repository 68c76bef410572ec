"""`byzdist new`: what it writes runs as it is, and where a user's own code is looked for."""

import json
import logging
import sys
from importlib.resources import files

import pytest
import torch
import yaml

from byzdist.cli.main import main
from byzdist.cli.new import FILES
from byzdist.config.reading import load
from byzdist.errors import ConfigError
from tests.support.cases import BASE
from tests.support.harness import ROOT
from tests.support.inprocess import train_in


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
