"""byzdist reads somebody else's run without running a line of its code."""

import shutil
import sys

import pytest
import yaml

from byzdist.cli.evaluate.report import evaluate
from byzdist.cli.main import main
from byzdist.errors import ConfigError
from byzdist.reporting.plotting import plot
from tests.support.cases import BASE
from tests.support.inprocess import train_in

MINE = """
from pathlib import Path
import numpy as np
import torch
Path("imported").touch()

class Anything:
    def __init__(self, *_, **__): pass

def net(shape, classes):
    return torch.nn.Linear(shape[0], 1 if classes == 2 else classes, bias=False)

def data():
    generator = np.random.default_rng(0)
    return generator.standard_normal((90, 12)), np.arange(90) % 2
"""
PLACES = {
    "model": {"model": "mine:net"},
    "data": {"data": "mine:data"},
    "split": {"data": {**BASE["data"], "split": {"name": "mine:Anything"}}},
    "method": {"method": {**BASE["method"], "name": "mine:Anything"}},
    "compression": {"compression": "mine:Anything"},
    "rule": {"aggregation": {"rule": {"name": "mine:Anything"}}},
    "rule within a rule": {"aggregation": {"rule": {"name": "ctma", "rule": "mine:Anything"}}},
    "step": {"aggregation": {"rule": "mean", "pre": ["nnm", "mine:Anything"]}},
    "attack": {"attack": [{"name": "zero"}, {"name": "mine:Anything"}]},
    "availability": {"clients": {**BASE["clients"], "availability": "mine:Anything"}},
    "a module of a package": {"model": "mine.deep:net"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust") / "run"
    train_in(BASE | {"rounds": 3}, folder)
    return folder


@pytest.fixture
def theirs(finished, tmp_path, monkeypatch):
    """A run whose configuration can be changed, with a module beside it, in the run and in the working folder."""
    shutil.copytree(finished, tmp_path / "run")
    for folder in (tmp_path, tmp_path / "run"):
        (folder / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield tmp_path / "run"
    sys.modules.pop("mine", None)


def rewrite(run, change):
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))


@pytest.mark.parametrize("change", PLACES.values(), ids=PLACES)
def test_nothing_is_imported_without_trust(theirs, change, tmp_path, capsys):
    rewrite(theirs, change)
    assert main(["evaluate", str(theirs)]) == 2
    said = capsys.readouterr().err
    assert "'mine" in said and "imported and run" in said and "--trust" in said
    if change == PLACES["model"]:
        plot([theirs], "p.png")
    assert not (tmp_path / "imported").exists() and "mine" not in sys.modules


def test_with_trust_it_is(theirs, tmp_path, capsys):
    rewrite(theirs, {"data": "mine:data"})
    assert main(["evaluate", str(theirs), "--trust"]) == 0
    assert "loss" in capsys.readouterr().out and (tmp_path / "imported").exists()


def test_what_the_user_names_is_the_users_own(theirs, tmp_path):
    assert "data mine:data" in evaluate(theirs, ["data=mine:data"])
    rewrite(theirs, {"model": "mine:net"})
    with pytest.raises(ConfigError, match="mine:net"):
        evaluate(theirs, ["data=mine:data"])  # one is trusted, the other is not


def test_trust_ends_with_the_command(theirs):
    rewrite(theirs, {"model": "mine:net"})
    with pytest.raises(ConfigError, match="--trust"):
        evaluate(theirs)
    from byzdist.config.reading import load

    assert load(theirs / "config.yaml").model.name == "mine:net"  # `byzdist run` runs what its user names
