"""Early stopping: when a run ends, and which model it leaves, computed again from its metrics and checkpoints."""

import json

import pytest
import torch
from safetensors import safe_open

from byzdist.cli.evaluate.report import evaluate
from byzdist.config.reading import parse
from byzdist.config.schema import Stopping
from byzdist.errors import ConfigError, RunError
from byzdist.runtime.best import Best
from byzdist.runtime.experiment import prepare
from byzdist.storage.checkpoint import rounds
from byzdist.storage.export import load_model
from tests.support.cases import case
from tests.support.harness import comparable
from tests.support.inprocess import CPU, train_in
from tests.support.records import record
from tests.support.runs import drop_after

STOP = {"metric": "loss", "patience": 3, "min_delta": 0.01}


def stopping(metric="loss", **more):
    settings = {"rounds": 60, "evaluate": {"every": 2}, "checkpoint": {"every": 1, "keep": 100}}
    return case("none") | settings | {"stop": STOP | {"metric": metric} | more}


def expected(lines, sign, patience, delta):
    """Return the last round and the best one, by the definition."""
    best, at, waited = None, None, 0
    for line in lines:
        if "loss" not in line:
            continue
        value = sign * line["m"]
        if best is None or value < best - delta:
            best, at, waited = value, line["round"], 0
        else:
            waited += 1
        if waited == patience:
            return line["round"], at
    raise AssertionError("it never stops")


@pytest.mark.parametrize(("metric", "sign"), [("loss", 1), ("accuracy", -1), ("gap", 1)])
def test_a_run_stops_and_leaves_its_best_model(metric, sign, tmp_path):
    tree = stopping(metric)
    train_in(tree, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["m"] = line.get(metric)
    last, best = expected(lines, sign, 3, 0.01)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished" and lines[-1]["round"] == last < 60 and best < last
    assert summary["reason"].startswith(f"stopped early: {metric} has not got better in 3 evaluations; it is ")
    assert max(rounds(tmp_path / "run" / "checkpoint")) == last
    round_, x = load_model(prepare(parse(tree), CPU).oracle.loss.model, tmp_path / "run")
    assert round_ == best
    assert torch.equal(x, train_in({**tree, "stop": None, "rounds": best}, tmp_path / "shorter"))
    assert f"model after round {best}," in evaluate(tmp_path / "run")


@pytest.mark.parametrize("kept", [1, 5, 9])
def test_it_survives_a_kill(kept, tmp_path):
    tree = stopping()
    train_in(tree, tmp_path)
    whole, model = comparable(tmp_path), (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    drop_after(tmp_path, kept)
    train_in(tree, tmp_path, resume=True)
    assert comparable(tmp_path) == whole and (tmp_path / "model.safetensors").read_bytes() == model


def test_a_stopped_run_that_is_resumed_does_not_train_on(tmp_path):
    train_in(stopping(), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    train_in(stopping(), tmp_path, resume=True)
    again = json.loads((tmp_path / "summary.json").read_text())
    assert (again["rounds"], again["reason"]) == (summary["rounds"], summary["reason"])


def test_without_an_end_in_sight_the_run_takes_its_rounds_and_keeps_the_best(tmp_path):
    train_in(stopping(patience=1000) | {"rounds": 10}, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "finished" and "reason" not in summary
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert 0 <= int(file.metadata()["round"]) <= 10


def test_what_is_no_number_is_never_best_and_a_metric_that_is_missing_ends_the_run():
    best = Best(Stopping(metric="loss", patience=2), "lower")
    best.watch(record(0, loss=float("nan")), torch.zeros(2))
    best.watch(record(1), torch.ones(2))  # without an evaluation
    assert best.x is None and str(best.reason) == ""
    best.watch(record(2, loss=float("inf")), torch.ones(2))
    assert best.reason == "stopped early: loss has not got better in 2 evaluations"
    best.watch(record(3, loss=4.0), torch.ones(2))
    assert best.round == 3 and not best.reason
    with pytest.raises(RunError, match="stop.metric: 'gap' is not known"):
        Best(Stopping(metric="gap"), "lower").watch(record(0, loss=1.0), torch.ones(2))


NO_GAP = {
    "no l2": {"model": {"name": "logistic_regression", "l2": 0.0}},
    "not convex": {"model": "mlp"},
    "an estimate": {"evaluate": {"every": 2, "samples": 10}},
}


@pytest.mark.parametrize("why", NO_GAP)
def test_a_gap_that_is_not_known_is_refused_before_anything_starts(why):
    prepare(parse(stopping("gap")), CPU)
    with pytest.raises(ConfigError, match="^stop.metric: the gap is not known in this run"):
        prepare(parse(stopping("gap") | NO_GAP[why]), CPU)


def test_claims_stop_no_run():
    data = {"name": "mine:rows", "where": "worker", "features": [5], "outputs": 2}
    with pytest.raises(ConfigError, match="^stop: .*the server measures nothing"):
        prepare(parse(stopping() | {"data": data, "method": {**case("none")["method"], "p": 0.5}}), CPU)
