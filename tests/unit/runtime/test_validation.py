"""The server's own set: the task's metrics are measured on it, and no worker needs it."""

import json

import numpy as np
import pytest
import torch

from byzdist.config.reading import dump, parse
from byzdist.errors import ConfigError
from byzdist.problem.data import DATASETS, Lazy
from byzdist.runtime.experiment import prepare
from byzdist.runtime.identity import identity
from tests.support.cases import BASE
from tests.support.inprocess import train_in
from tests.support.standins import registered

CPU = torch.device("cpu")
GENERATOR = np.random.default_rng(1)
X, Y = GENERATOR.standard_normal((31, 12)), np.arange(31) % 2
TREE = {**BASE, "rounds": 6, "evaluate": {"every": 2}}


class Own(torch.utils.data.Dataset):
    targets = Y.tolist()

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], Y[index]


def accuracy(x):
    """The share of right signs: of logistic regression on two classes, without a bias."""
    return float(((X @ x.numpy() > 0) == (Y == 1)).mean())


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("own", [(X, Y), Own(), Lazy(Own())], ids=["arrays", "Dataset", "Lazy"])
def test_metrics_are_those_of_the_servers_own_set_and_training_stays_as_it_is(tmp_path, monkeypatch, own):
    monkeypatch.setenv("BYZDIST_CACHE", str(tmp_path / "cache"))
    with registered(DATASETS, own=lambda: own):
        x = train_in({**TREE, "validation": "own"}, tmp_path / "validated")
    assert torch.equal(x, train_in(TREE, tmp_path / "plain"))
    validated, plain = (metrics(tmp_path / name) for name in ("validated", "plain"))
    assert validated[-1]["accuracy"] == pytest.approx(accuracy(x), rel=1e-12)
    assert validated[-1]["accuracy"] != plain[-1]["accuracy"] and validated[-1]["loss"] == plain[-1]["loss"]


def test_nobody_but_the_server_loads_it():
    def absent():
        raise FileNotFoundError("not on this host")

    with registered(DATASETS, own=absent):
        experiment = prepare(parse({**TREE, "validation": "own"}), CPU)
        with pytest.raises(ConfigError, match="^validation: data: 'own' ended with FileNotFoundError"):
            identity(experiment)  # which the server looks at before it waits for anybody


def test_it_is_data_of_the_same_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("BYZDIST_CACHE", str(tmp_path / "cache"))
    for name, made in (("narrow", (X[:, :5], Y)), ("more", (X, np.arange(31) % 3))):
        with registered(DATASETS, **{name: lambda made=made: made}):
            experiment = prepare(parse({**TREE, "validation": name}), CPU)
            with pytest.raises(
                ConfigError, match=f"^validation: '{name}' has features of shape .* Give data of one kind"
            ):
                _ = experiment.validation


def test_its_path_is_the_servers_alone():
    def of_file(*, path: str):
        return X, Y

    with registered(DATASETS, own=of_file):
        here, there = (parse({**TREE, "validation": {"name": "own", "path": path}}) for path in ("here", "there"))
    assert dump(here) != dump(there) and dump(here, paths=False) == dump(there, paths=False)
    with pytest.raises(ConfigError, match="validation: unknown data set 'nonesuch'"):
        parse({**TREE, "validation": "nonesuch"})
