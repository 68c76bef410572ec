"""`byzdist.train` in one process: its arguments, its result, and the state of the process that it restores."""

import logging
import os
import random
import signal
import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import byzdist
from byzdist.errors import ConfigError, RunError

_drawn = np.random.default_rng(0)
X = _drawn.standard_normal((40, 3))
Y = (X @ [1.0, -2.0, 0.5] > 0).astype(int)
GENTLE = byzdist.byz_vr_marina(step_size=0.5, p=1.0)
FULL = {"rounds": 2, "clients": 4, "method": GENTLE, "rule": "mean", "dtype": "float64", "progress": False}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def linear():
    return nn.Linear(3, 2, dtype=torch.float64)


def short(**changes):
    sampled = byzdist.byz_vr_marina_pp(step_size=0.2, cohort=3, p=0.3, batch_size=4, clip=1.0)
    settings = {
        "rounds": 6,
        "clients": 5,
        "byzantine": 1,
        "method": sampled,
        "rule": "coordinate_median",
        "progress": False,
    }
    model = changes.pop("model", None) or nn.Linear(3, 2)
    return byzdist.train(model, **{"data": (X, Y), **settings, **changes})


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model(trust=True).parameters()])


@pytest.mark.parametrize(
    "loss", [None, nn.CrossEntropyLoss(), F.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1)]
)
def test_a_module_is_trained_from_its_own_weights_by_gradient_descent_and_stays_as_it_is(loss):
    module = linear()
    reference = linear()
    reference.load_state_dict(module.state_dict())
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (loss or F.cross_entropy)(reference(torch.tensor(X)), torch.tensor(Y)).backward()
        optimizer.step()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    run = byzdist.train(module, (X, Y), loss=loss, **FULL)
    trained = run.model()
    assert trained.weight.dtype == torch.float64
    assert torch.allclose(trained.weight, reference.weight, atol=1e-12, rtol=0)
    assert torch.allclose(trained.bias, reference.bias, atol=1e-12, rtol=0)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert "accuracy" in run.summary


@pytest.mark.parametrize(
    "loss", [nn.L1Loss(), F.mse_loss, lambda outputs, targets: (outputs[:, 0] - targets).square().mean()]
)
def test_a_loss_of_numbers_gets_a_column_of_outputs_as_targets_are(loss):
    targets = X[:, 0]
    module = nn.Linear(3, 1, dtype=torch.float64)
    outputs = module(torch.tensor(X))
    wanted = loss(
        outputs[:, 0] if isinstance(loss, nn.L1Loss) or loss is F.mse_loss else outputs, torch.tensor(targets)
    )
    run = byzdist.train(module, (X, targets), loss=loss, evaluate=1, **FULL)
    assert run.metrics["loss"][0] == pytest.approx(wanted.item(), rel=1e-12)


def test_a_loss_of_model_and_batch_and_a_task_are_taken_as_they_are():
    def loss(model, batch):
        return (model(batch[0])[:, 0] - batch[1]).abs().mean()

    task = byzdist.Task(loss, {"close": byzdist.Metric(lambda model, batch: (1.0, 2.0))}, "numbers")
    first, second = (
        byzdist.train(linear_of_one, (X, X[:, 0]), evaluate=1, **FULL, **word)
        for word in ({"loss": loss}, {"task": task})
    )
    assert first.metrics["loss"].tolist() == second.metrics["loss"].tolist()
    assert second.metrics["close"].tolist() == [0.5] * 3


def linear_of_one():
    return nn.Linear(3, 1)


class Net(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, features):
        return self.layers(features)


def by_shape(feature_shape, classes):
    return nn.Linear(feature_shape[0], classes)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Net, f"{__name__}:Net#"),
        (partial(Net, width=4), f"{__name__}:Net#"),
        (lambda: nn.Linear(3, 2), f"{__name__}:<lambda>#"),
        (by_shape, f"{__name__}:by_shape"),
        (partial(by_shape), f"{__name__}:by_shape#"),
        ("linear", "linear"),
        ({"name": "mlp", "hidden": [4]}, "mlp"),
        (byzdist.mlp(hidden=[4]), "mlp"),
    ],
)
def test_a_model_is_given_in_many_ways_and_comes_back_with_its_weights(model, name):
    run = short(model=model, loss="classification")
    written = run.config["model"]["name"]
    assert written.startswith(name) if name.endswith("#") else written == name
    found = run.model()
    with torch.no_grad():
        accuracy = float((found(torch.tensor(X, dtype=torch.float32)).argmax(1).numpy() == Y).mean())
    assert accuracy == pytest.approx(run.summary["accuracy"])


def pairs():
    return X, Y


@pytest.mark.parametrize(
    "data",
    [
        (torch.tensor(X), torch.tensor(Y)),
        (X.tolist(), Y.tolist()),
        ((X, Y), (X[:8], Y[:8])),
        [X, Y, X[:8], Y[:8]],
        TensorDataset(torch.tensor(X), torch.tensor(Y)),
        byzdist.Lazy(TensorDataset(torch.tensor(X), torch.tensor(Y)), outputs=2),
        pairs,
        lambda: TensorDataset(torch.tensor(X), torch.tensor(Y)),
    ],
)
def test_data_are_given_in_many_ways_to_the_same_bits(data):
    torch.manual_seed(0)
    first = weights(short())
    torch.manual_seed(0)
    assert torch.equal(weights(short(data=data)), first)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_function_of_a_client_is_private_data(lazy):
    asked = []

    def mine(client):
        asked.append(client)
        rows = slice(8 * client, 8 * client + 8)
        return TensorDataset(torch.tensor(X[rows]), torch.tensor(Y[rows])) if lazy else (X[rows], Y[rows])

    run = short(data=mine, validation=(X, Y), evaluate=3)
    assert asked == [0, 1, 2, 3, 4] and run.config["data"]["where"] == "worker"
    assert np.isfinite(run.metrics["accuracy"][[0, 3, 6]]).all()


def test_rule_steps_and_attack_may_be_functions():
    calls = []

    def rule(vectors, f):
        calls.append(("rule", len(vectors), f))
        return vectors.median(0).values

    def push(now, *, strength: float = 1.0):
        calls.append(("push", now.client, strength))
        return now.honest.mul_(-strength)

    run = short(rule=rule, pre=[byzdist.arc(), "nnm"], attack={"name": push, "strength": 2.0})
    assert {name for name, *_ in calls} == {"rule", "push"} and ("push", 4, 2.0) in calls
    assert run.config["aggregation"]["rule"]["name"].startswith(
        f"{__name__}:test_rule_steps_and_attack_may_be_functions.<locals>.rule#"
    )
    assert [step["name"] for step in run.config["aggregation"]["pre"]] == ["arc", "nnm"]


def test_a_configuration_file_counts_and_keywords_change_it(here):
    first = short(seed=3)
    (here / "mine.yaml").write_text(
        (first.path / "config.yaml").read_text().replace(first.config["model"]["name"], "linear")
    )
    run = byzdist.train(
        "mine.yaml", rounds=2, data=(X, Y), method={"step_size": 0.3}, **{"method.clip": 2.0, "progress": False}
    )
    assert run.config["seed"] == 3 and run.config["rounds"] == 2 and run.config["model"]["name"] == "linear"
    assert (run.config["method"]["name"], run.config["method"]["step_size"], run.config["method"]["clip"]) == (
        "byz_vr_marina_pp",
        0.3,
        2.0,
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clients.count": 3}, "clients.count is given twice"),
        ({"lr": 0.1}, r"lr: unknown key\. Did you mean 'method.step_size'"),
        ({"rule": "krumm"}, r"aggregation.rule: unknown rule 'krumm'\. Did you mean 'krum'"),
        ({"rule": None}, "aggregation.rule: this key is required"),
        ({"workers": -1}, "workers: -1 is not a number"),
        ({"data": 3}, "data: an object of type int cannot be used"),
        ({"loss": 3}, "loss: an object of type int cannot be used"),
        ({"workers": 2, "transport": "local"}, "workers: 2, but transport.name=local runs in one process"),
        ({"resume": True}, "name the folder"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_left(here, changes, said):
    with pytest.raises(ConfigError, match=said):
        short(**changes)
    assert not (here / "runs").exists() or not list((here / "runs").iterdir())


def test_the_user_hears_of_each_round_and_cannot_touch_the_run():
    heard = []

    def hear(record):
        heard.append((record.round, list(record.cohort)))
        record.cohort.clear()
        record.evaluation["loss"] = 7.0

    run = short(on_round=hear, evaluate=2)
    assert heard == list(zip(range(7), run.metrics["cohort"].tolist(), strict=True))
    assert all(len(cohort) >= 3 for _, cohort in heard) and 7.0 not in run.metrics["loss"].tolist()


@pytest.mark.parametrize("raises", [False, True])
def test_the_user_ends_a_run_which_then_goes_on_to_the_same_bits(here, raises):
    def until_three(record):
        if record.round == 3 and raises:
            raise KeyError("enough")
        return record.round == 3

    def go(**changes):
        torch.manual_seed(1)
        return short(**changes)

    whole = go(out="whole")
    if raises:
        with pytest.raises(KeyError, match="enough"):
            go(out="part", on_round=until_three)
    else:
        go(out="part", on_round=until_three)
    assert byzdist.load_run("part").summary["status"] == "stopped"
    assert byzdist.load_run("part").metrics["round"].tolist() == [0, 1, 2, 3]
    resumed = go(out=here / "part", resume=True)
    assert resumed.summary["status"] == "finished" and torch.equal(weights(resumed), weights(whole))


def test_a_run_goes_on_with_the_very_same_function_only():
    def stop(record):
        return record.round == 2

    short(out="run", attack=lambda now: now.honest.mul_(-1.0), on_round=stop)
    with pytest.raises(ConfigError, match=r"attack.name was '.*<lambda>#\w+' and is '.*<lambda>#\w+'"):
        short(out="run", attack=lambda now: now.honest.mul_(-2.0), resume=True)
    with pytest.raises(ConfigError, match="is an object that byzdist.train was given"):
        byzdist.train("run/config.yaml", out="run", resume=True, progress=False)
    assert short(out="run", attack=lambda now: now.honest.mul_(-1.0), resume=True).summary["status"] == "finished"


def test_a_run_that_diverges_is_an_error_and_its_folder_has_the_reason():
    with pytest.raises(RunError, match="diverged"):
        short(
            out="run",
            method=byzdist.byz_vr_marina(step_size=1e6, p=1.0),
            rule="mean",
            byzantine=0,
            model="linear",
            evaluate=1,
        )
    assert byzdist.load_run("run").summary["status"] == "diverged"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_round_and_is_then_the_callers(here, number):
    def come(record):
        if record.round == 2:
            signal.raise_signal(number)

    before = signal.signal(number, signal.default_int_handler)  # SIGINT may be ignored: pytest in a shell's background
    try:
        with pytest.raises(KeyboardInterrupt):
            short(out="run", on_round=come)
    finally:
        signal.signal(number, before)
    assert byzdist.load_run("run").summary["status"] == "stopped"
    assert byzdist.load_run("run").metrics["round"].tolist() == [0, 1, 2]


def test_nothing_is_left_behind_however_a_run_ends():
    def state():
        handlers = [
            signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
        ]
        loggers = [logging.getLogger(name).level for name in ("byzdist", "byzdist.registry", "byzdist.config.checks")]
        draws = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
        root = logging.getLogger().handlers[:], logging.raiseExceptions
        return dict(os.environ), handlers, loggers, root, draws, torch.get_num_threads(), sys.path[:]

    model = nn.Linear(3, 2)
    torch.set_num_threads(2)
    before = state()
    short(model=model, threads=1)
    assert state() == before
    with pytest.raises(ConfigError):
        short(model=model, rule="krumm")
    assert state() == before
    with pytest.raises(ZeroDivisionError):
        short(model=model, on_round=lambda record: 1 / 0)
    assert state() == before
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (
            lambda patch: patch.setattr(torch.cuda, "is_initialized", lambda: True),
            "it uses CUDA.*workers=0.*torchrun",
        ),
        (
            lambda patch: patch.setattr("byzdist.scripting.forking._has_native_threads", lambda: True),
            "threads: 2 in forks .*threads=1",
        ),
        (lambda patch: patch.setenv("BYZDIST_SECRET", "x" * 32), "BYZDIST_SECRET: .*Remove it"),
    ],
)
def test_where_forks_cannot_work_the_remedy_is_told(monkeypatch, prepare, said):
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", list)
    prepare(monkeypatch)
    with pytest.raises(ConfigError, match=said):
        short(workers=2, threads=1 if "SECRET" in said else 2)


def test_a_run_is_a_picture_in_a_notebook_and_a_data_frame_for_pandas(monkeypatch):
    run = short(evaluate=2)
    assert "data:image/png;base64,iVBOR" in run._repr_html_() and run.plot()._repr_png_().startswith(b"\x89PNG")
    frame = run.metrics.to_pandas()
    assert frame["loss"].isna().tolist() == [False, True, False, True, False, True, False]
    assert frame["cohort"][1] == run.metrics["cohort"][1]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install 'pandas'"):
        run.metrics.to_pandas()
