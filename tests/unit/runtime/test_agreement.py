"""Ranks agree about data and model at the join; the error names the difference and the rank."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.problem import data
from byzdist.problem.data import DATASETS
from byzdist.runtime.agreement import compare, facts
from byzdist.runtime.experiment import prepare
from byzdist.runtime.identity import identity
from tests.support.cases import BASE, case
from tests.support.inprocess import train
from tests.support.problem import oracle_of
from tests.support.standins import registered

CPU = torch.device("cpu")


def experiment_of(**source):
    return prepare(parse({**BASE, "data": {**BASE["data"], **source}}), CPU)


def changed(experiment, **arrays):
    return replace(experiment, dataset=replace(experiment.dataset, **arrays))


def told(experiment):
    """The facts as the server's come: through JSON."""
    return json.loads(json.dumps(facts(experiment)))


def flipped(labels, position):
    labels = np.array(labels)
    labels[position] = 1 - labels[position]
    return labels


DIFFERENT = {
    "features": (lambda e: experiment_of(features=9), "its data have 9 features, the server's 12; give every rank"),
    "classes": (lambda e: experiment_of(classes=3), "its data have 3 classes, the server's 2; give every rank"),
    "samples": (lambda e: experiment_of(samples=80), "its data have 80 samples, the server's 90; give every rank"),
    "one target": (
        lambda e: changed(e, labels=flipped(e.dataset.labels, 57)),
        "its data have other targets than the server's; give",
    ),
    "scaled features": (
        lambda e: changed(e, features=np.asarray(e.dataset.features) * 1.01),
        "its data have other features than the server's; give",
    ),
    "features in another order": (
        lambda e: changed(e, features=np.asarray(e.dataset.features)[:, ::-1]),
        "its data have other features than the server's; give",
    ),
    "images": (
        lambda e: changed(e, features=np.asarray(e.dataset.features).reshape(-1, 3, 4)),
        r"its data have \[3, 4\] features, the server's 12; give",
    ),
    "precision": (
        lambda e: changed(e, features=np.asarray(e.dataset.features, np.float32)),
        "its data are in float32, the server's in float64; give",
    ),
    "a bias": (
        lambda e: prepare(parse({**BASE, "model": {"name": "logistic_regression", "bias": True}}), CPU),
        "its model has 13 parameters, the server's 12; give",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_named_with_the_rank(name):
    server = experiment_of()
    change, complaint = DIFFERENT[name]
    with pytest.raises(ConfigError, match=f"^worker 3: {complaint}"):
        compare(facts(change(server)), told(server), 3)


def test_the_same_data_agree_and_so_do_those_of_another_processor(caplog):
    server = experiment_of()
    compare(facts(experiment_of()), told(server), 1)
    generator = np.random.default_rng(0)
    noise = 1 + np.finfo(np.float64).eps * generator.integers(-3, 4, server.dataset.features.shape)
    compare(facts(changed(server, features=server.dataset.features * noise)), told(server), 1)
    assert "worker" not in caplog.text


@pytest.mark.parametrize("split", ["shared", "iid", {"name": "iid", "holders": "all"}])
def test_other_samples_are_refused_however_they_are_dealt_out(split):
    server = experiment_of(split=split)
    with pytest.raises(
        ConfigError, match=r"^worker 2: its data have 180 samples, the server's 90; .*data\.where=worker"
    ):
        compare(facts(experiment_of(split=split, samples=180)), told(server), 2)


class HalfFrozen(nn.Module):
    def __init__(self, start, frozen):
        super().__init__()
        self.first, self.second = nn.Linear(12, 3), nn.Linear(3, 2)
        nn.init.constant_(self.second.weight, start)
        self.first.requires_grad_(False)
        nn.init.constant_(self.first.weight, frozen), nn.init.zeros_(self.first.bias), nn.init.zeros_(self.second.bias)

    def forward(self, features):
        return self.second(self.first(features))


def with_model(experiment, start, frozen):
    return replace(experiment, oracle=oracle_of(HalfFrozen(start, frozen), experiment.dataset, experiment.split))


def test_what_a_model_does_not_train_must_be_the_servers_and_its_start_had_better_be(caplog):
    base = experiment_of()
    server = told(with_model(base, 0.5, 0.1))
    compare(facts(with_model(base, 0.5, 0.1)), server, 2)
    with pytest.raises(ConfigError, match="^worker 2: the frozen parameters or the buffers of its model differ"):
        compare(facts(with_model(base, 0.5, 0.2)), server, 2)
    assert "worker" not in caplog.text
    compare(facts(with_model(base, 0.6, 0.1)), server, 2)
    assert "the model of worker 2 has other initial values than the server's" in caplog.text


def test_large_data_are_looked_at_here_and_there_only():
    touched = []

    class Watched(np.ndarray):
        def __array_finalize__(self, parent):
            touched.append(self.shape)

    features = np.zeros((2000, 5000)).view(Watched)
    dataset = data.Dataset("t", features, np.arange(2000) % 2, None, None, 2)
    experiment = replace(experiment_of(), dataset=dataset)
    touched.clear()
    facts(experiment)
    assert max(int(np.prod(shape)) for shape in touched) <= 2**20


def test_absence_is_a_warning_of_one_line_for_each_reason(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="byzdist.runtime.server"):
        train({**case("nan"), "rounds": 5}, tmp_path)
    lines = [message for message in caplog.messages if "no reply" in message]
    assert lines[0] == "no reply from client 5, 6, 7, 8: not finite" and len(lines) <= 3


def test_models_of_a_kind_have_the_same_facts_in_every_process():
    spec = {"name": "mlp", "hidden": [3]}
    one, two = (prepare(parse({**BASE, "model": spec}), CPU) for _ in range(2))
    assert facts(one) == facts(two)


class Samples(torch.utils.data.Dataset):
    """Samples that are read lazily, with noise of torch's global generator, or of one of their own."""

    def __init__(self, shift=0.0, length=90, own=None):
        self.shift, self.length, self.own, self.targets = shift, length, own, [i % 2 for i in range(length)]

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        noise = torch.rand((), generator=self.own)
        return torch.full((12,), index + self.shift) + noise, index % 2


def test_data_that_are_read_lazily_are_compared_by_some_samples():
    def experiment(**options):
        with registered(DATASETS, mine=lambda: Samples(**options)):
            return prepare(parse({**BASE, "data": "mine"}), CPU)

    server = told(experiment())
    compare(facts(experiment()), server, 1)
    for options, complaint in (({"shift": 0.1}, "other features"), ({"length": 80}, "80 samples, the server's 90")):
        with pytest.raises(ConfigError, match=f"^worker 1: its data have {complaint}"):
            compare(facts(experiment(**options)), server, 1)
    one, other = (experiment(own=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    compare(facts(one), told(other), 1)  # what cannot be repeated cannot be compared, either
    assert identity(experiment())["data"] == identity(experiment())["data"] != identity(experiment(shift=0.1))["data"]
