"""Data that lie with the workers: whose function is called where, what is refused, and what clients claim."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from byzdist.cli.check.rehearsal import rehearse
from byzdist.cli.evaluate.report import evaluate
from byzdist.config.reading import dump, load, parse
from byzdist.config.yaml_reading import read_yaml
from byzdist.errors import ConfigError
from byzdist.problem.data import RawData
from byzdist.rounds import Round
from byzdist.runtime.claims import Claims
from byzdist.runtime.experiment import load_private, prepare
from byzdist.runtime.joining import _digest
from byzdist.transport.local import LocalServer
from tests.support.cases import BASE
from tests.support.harness import write_config
from tests.support.inprocess import CPU, train_in

CALLS = list[int]()


def samples_of(client):
    generator = np.random.default_rng(client)
    y = np.arange(20 + 7 * client) % 2
    return generator.standard_normal((len(y), 5)) + y[:, None], y


def own(client, *, scale: float = 1.0):
    CALLS.append(client)
    X, y = samples_of(client)
    return RawData(scale * X, y)


def wide(client):
    return np.zeros((4, 6)), np.arange(4) % 2


def many_classes(client):
    return np.zeros((4, 5)), np.arange(4)


def broken(client):
    raise OSError("no such disk")


def net(feature_shape, classes):
    return torch.nn.Linear(5, 2)


DATA = {"name": f"{__name__}:own", "where": "worker", "features": [5], "outputs": 2}


def tree(data=None, **changes):
    return {
        **BASE,
        "rounds": 6,
        "clients": {"count": 4, "byzantine": 1},
        "aggregation": {"rule": "coordinate_median"},
        "method": {**BASE["method"], "cohort": 2},
        "evaluate": {"every": 2},
        "data": {**DATA, **(data or {})},
        **changes,
    }


@pytest.fixture(autouse=True)
def _calls():
    CALLS.clear()


def test_the_server_is_prepared_without_a_call_and_a_worker_calls_once_for_each_client_that_lives_there():
    experiment = prepare(parse(tree()), CPU)
    assert CALLS == [] and experiment.oracle.dimension == 5
    load_private(experiment, rank=2, workers=3)
    assert CALLS == [1]
    load_private(other := prepare(parse(tree()), CPU), rank=1, workers=3)
    assert CALLS == [1, 0, 3] and other.oracle.samples(3) == 41
    load_private(prepare(parse(tree()), CPU), rank=5, workers=5)  # hosts nobody
    with pytest.raises(AssertionError, match="client 2 are not in this process"):
        other.oracle.samples(2)


def test_the_server_does_not_even_import_the_function():
    assert prepare(parse(tree({"name": "not_on_this_host:rows"})), CPU).is_private


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a registered name": ({"name": "digits"}, {}, r"^data\.name: 'digits' with data\.where=worker"),
    "a split": ({"split": "iid"}, {}, r"^data\.split: with data\.where=worker"),
    "another place": ({"where": "cloud"}, {}, r"^data\.where: .*not 'cloud'"),
    "no features": ({"features": None}, {}, r"^data\.features: the server knows the model, never the data: give"),
    "no outputs": ({"outputs": None}, {}, r"^data\.outputs: the server knows the model, never the data: give"),
    "no size": ({"features": [5, 0]}, {}, r"^data\.features: 0 is not a whole number of at least 1"),
    "default p": (
        {},
        {"method": {"name": "byz_vr_marina_pp", "step_size": 0.1, "cohort": 2}},
        r"^method\.p: its default",
    ),
    "evaluate.samples": ({}, {"evaluate": {"samples": 10}}, r"^evaluate\.samples: with data\.where=worker"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_its_key(name):
    data, changes, complaint = REFUSED[name]
    config = tree(data, **changes)
    config["data"] = {key: value for key, value in config["data"].items() if value is not None}
    with pytest.raises(ConfigError, match=complaint):
        parse(config)


def test_label_flip_without_the_number_of_classes_is_refused():
    config = tree(attack="label_flip", model=f"{__name__}:net")
    del config["data"]["outputs"]
    with pytest.raises(ConfigError, match=r"^data\.outputs: label_flip"):
        parse(config)


def test_a_model_that_asks_for_no_shapes_needs_none_configured_and_is_tried_in_the_worker(tmp_path):
    config = tree(model=f"{__name__}:net")
    del config["data"]["outputs"], config["data"]["features"]
    experiment = prepare(parse(config), CPU)
    assert CALLS == [] and experiment.oracle.dimension == 12
    load_private(experiment, rank=1, workers=4)
    assert train_in(config, tmp_path).isfinite().all()


def test_a_model_that_does_not_fit_is_refused_in_the_worker():
    config = tree({"outputs": 3}, model=f"{__name__}:net")
    with pytest.raises(ConfigError, match="^model: .*net.* has 2 outputs, and the data have 3 classes"):
        load_private(prepare(parse(config), CPU), rank=1, workers=4)


def test_label_flip_works_in_the_worker():
    experiment = prepare(parse(tree(attack="label_flip")), CPU)
    load_private(experiment, rank=4, workers=4)
    (((_, targets), _),) = experiment.data.batches(3, None, None)
    assert targets.tolist() == (1 - samples_of(3)[1]).tolist()


def test_p_has_its_default_where_the_mean_number_of_samples_is_given():
    method = {key: value for key, value in BASE["method"].items() if key != "p"} | {"cohort": 4, "batch_size": 10}
    assert vars(prepare(parse(tree({"samples": 40}, method=method)), CPU).method)["p"] == 0.25


def one_class(client):
    return np.zeros((4, 5)), np.full(4, 1)


def test_a_client_need_not_hold_every_class():
    experiment = prepare(parse(tree({"name": f"{__name__}:one_class"})), CPU)
    load_private(experiment, rank=1, workers=4)
    assert experiment.oracle.samples(0) == 4


def below_zero(client):
    return np.zeros((4, 5)), np.full(4, -1)


WRONG = {
    "below_zero": r"^data\.name: .*below_zero of client 0' has .*not the integers 0, 1",
    "wide": r"^data\.features: .*wide of client 0 has features of shape \[6\], and \[5\] is configured",
    "many_classes": r"^data\.outputs: .*many_classes of client 0 needs 4 outputs, and 2 are configured",
    "broken": r"^data: .*broken' ended for client 0 with .*no such disk",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_function_returns_is_checked_in_the_worker(name):
    experiment = prepare(parse(tree({"name": f"{__name__}:{name}"})), CPU)
    with pytest.raises(ConfigError, match=WRONG[name]):
        load_private(experiment, rank=1, workers=4)


def test_the_functions_own_parameters_are_checked_in_the_worker_and_are_no_part_of_what_ranks_agree_on():
    mine, yours = (parse(tree({"scale": scale})) for scale in (1.0, 2.0))
    assert _digest(mine) == _digest(yours)
    assert _digest(mine) != _digest(parse(tree({"samples": 3})))
    assert "scale" in dump(mine)
    with pytest.raises(ConfigError, match=r"^data\.scale: "):
        load_private(prepare(parse(tree({"scale": "x"})), CPU), rank=1, workers=4)
    with pytest.raises(ConfigError, match=r"^data\.scal: "):
        load_private(prepare(parse(tree({"scal": 1.0})), CPU), rank=1, workers=4)


@pytest.mark.parametrize("text", ["data: {path: mine}", "data.path: mine"])
def test_a_ranks_own_file_sets_keys_of_its_data_beside_itself(tmp_path, text):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine").touch()
    (tmp_path / "here" / "local.yaml").write_text(text)
    config = load(write_config(tmp_path, tree()), local=tmp_path / "here" / "local.yaml")
    assert config.data.parameters["path"] == str(tmp_path / "here" / "mine")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed: 3", "'seed' is not one of them"),
        ("{data: {path: x}, rounds: 3}", "'rounds' is not one of them"),
        ("{}", "it has none"),
        ("data: {name: 'other:rows'}", "data.name is the same on every rank"),
        ("data.outputs: 3", "data.outputs is the same on every rank"),
        ("data: 3", "it has none"),
    ],
)
def test_a_ranks_own_file_sets_nothing_else(tmp_path, text, complaint):
    (tmp_path / "local.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"^--local: .*{complaint}"):
        load(write_config(tmp_path, tree()), local=tmp_path / "local.yaml")


def truth(x, client):
    """The loss of one client and its accuracy, by numpy alone."""
    X, y = samples_of(client)
    logits = X @ x
    losses = np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - y * logits
    return losses.mean() + 0.01 * x @ x, ((logits > 0) == y).mean()


def test_what_clients_claim_is_what_they_measure_and_is_reported_as_median_and_spread(tmp_path):
    x = train_in(tree(rounds=4), tmp_path).numpy()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if "claimed" in line] == [0, 2, 4]
    assert all("loss" not in line and "accuracy" not in line for line in lines)
    measured = np.array([truth(x, client) for client in lines[4]["cohort"]])
    for column, name in enumerate(("loss", "accuracy")):
        values = measured[:, column]
        expected = {"median": np.median(values), "spread": np.median(np.abs(values - np.median(values)))}
        assert lines[4]["claimed"][name] == pytest.approx(expected | {"clients": len(values)})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["claimed"] == lines[4]["claimed"] and summary["status"] == "finished"


def test_impossible_claims_are_left_out_and_a_minority_does_not_move_the_rest():
    claims = Claims(("loss",), 1, 1)

    def rows(*values):
        return torch.from_numpy(np.array(values, "<f8").view(np.uint8).reshape(len(values), 8))

    assert claims.summary(rows(1.0, 2.0, 3.0, math.nan, math.inf, 1e300)) == {
        "loss": {"median": 2.0, "spread": 1.0, "clients": 3}
    }
    assert claims.summary(rows(1.0, 2.0, 3.0, 1e29, -1e29))["loss"] == {"median": 2.0, "spread": 1.0, "clients": 5}
    assert claims.summary(rows(math.nan)) == claims.summary(rows()) == {}


class Liars(LocalServer):
    """All clients claim a loss of NaN, or of 10^29."""

    claim = math.nan

    def collect(self, deadline):
        replies = super().collect(deadline)
        lie = torch.from_numpy(np.array([self.claim, self.claim], "<f8").view(np.uint8))
        replies.payloads.rows[:, -16:] = lie
        return replies


class Boasters(Liars):
    claim = 1e29


@pytest.mark.parametrize("end", [Liars, Boasters])
def test_claims_are_used_for_nothing(tmp_path, end):
    honest = train_in(tree(), tmp_path / "honest")
    assert torch.equal(train_in(tree(), tmp_path / "lied", end=end), honest)
    summary = json.loads((tmp_path / "lied" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert (tmp_path / "lied" / "model.safetensors").exists()


def test_a_run_on_private_data_has_the_bits_of_one_on_the_same_shared_data(tmp_path):
    """With one honest client's data for all, either way: the claims at the end of payloads change nothing."""
    same = {"name": f"{__name__}:same", "where": "worker", "features": [5], "outputs": 2}
    shared = {"name": f"{__name__}:same_for_all"}
    for compression in ("identity", {"name": "rand_k", "ratio": 0.4}):
        private = train_in(tree(data=same, compression=compression), tmp_path / f"private {compression}")
        assert torch.equal(
            private, train_in(tree() | {"data": shared, "compression": compression}, tmp_path / f"s {compression}")
        )


def same(client):
    return samples_of(0)


def same_for_all():
    return samples_of(0)


def test_a_run_goes_on_to_the_same_bits(tmp_path):
    whole = train_in(tree(), tmp_path / "whole")
    train_in(tree(rounds=3), tmp_path / "parts")
    assert torch.equal(train_in(tree(), tmp_path / "parts", resume=True), whole)


def test_check_tells_of_the_run_and_calls_nothing(tmp_path):
    said = rehearse(str(write_config(tmp_path, tree())))
    assert "# data: each client's own, by " in said and "# model: 5 parameters in float64" in said
    assert parse(read_yaml(said, "check")).data == parse(tree()).data
    assert CALLS == []


def test_a_model_is_evaluated_on_data_that_are_here(tmp_path):
    train_in(tree(), tmp_path)
    with pytest.raises(ConfigError, match="^data.where: the data of this run lie with its workers"):
        evaluate(tmp_path, trust=True)
    here = f"data={{name: '{__name__}:same_for_all'}}"
    assert "20 training samples" in evaluate(tmp_path, [here], trust=True)


def held_out():
    return samples_of(9)


def test_a_validation_set_of_the_server_takes_the_place_of_claims(tmp_path):
    x = train_in(tree(validation=f"{__name__}:held_out", dtype="float64"), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert not any("claimed" in line for line in lines)
    features, labels = samples_of(9)
    scores = features @ x.numpy()
    loss = np.logaddexp(0, -(2 * labels - 1) * scores).mean() + 0.01 * x.numpy() @ x.numpy()
    assert lines[-1]["loss"] == pytest.approx(loss, rel=1e-12)
    assert lines[-1]["accuracy"] == pytest.approx(((scores > 0) == labels).mean(), rel=1e-12)
    assert json.loads((tmp_path / "summary.json").read_text())["loss"] == lines[-1]["loss"]


class Lazily(torch.utils.data.Dataset):
    def __init__(self, width, targets):
        self.width, self.targets = width, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return torch.full((self.width,), float(index)), self.targets[index]


class Streamed(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(())


def lazy_wide(client):
    return Lazily(6, [0, 1, 1])


def lazy_classes(client):
    return Lazily(5, [0, 1, 2])


def lazy_stream(client):
    return Streamed()


LAZY_REFUSED = {
    "lazy_wide": r"^data\.features: .*lazy_wide of client 0 has features of shape \[6\], and \[5\] is configured",
    "lazy_classes": r"lazy_classes of client 0' cannot be read for a trial: .* has targets from 0 to 2",
    "lazy_stream": r"lazy_stream of client 0' returns an IterableDataset",
}


@pytest.mark.parametrize("name", LAZY_REFUSED)
def test_a_dataset_that_does_not_fit_is_refused_by_its_client(name):
    experiment = prepare(parse(tree({"name": f"{__name__}:{name}"})), CPU)
    with pytest.raises(ConfigError, match=LAZY_REFUSED[name]):
        load_private(experiment, rank=1, workers=1)


def dealt(client):
    X, y = samples_of(client)
    kept = torch.randperm(len(y))[:10].numpy()
    return X[kept], y[kept]


def first_row(experiment, client):
    [((features, _), _)] = experiment.data.batches(client, np.arange(1), Round(0, 0))
    return features


def test_what_a_function_draws_is_the_same_after_a_restart_and_another_clients_is_not():
    seen = []
    for _ in range(2):
        load_private(experiment := prepare(parse(tree({"name": f"{__name__}:dealt"})), CPU), rank=1, workers=1)
        seen.append([first_row(experiment, client) for client in (0, 1)])
    assert torch.equal(seen[0][0], seen[1][0]) and not torch.equal(*seen[0])
