"""A run that has diverged has not finished: its status, its reason, and the model that is kept."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from byzdist.cli.evaluate.report import evaluate
from byzdist.config.reading import parse
from byzdist.reporting.metrics import Metrics
from byzdist.runtime.divergence import LIMIT, Diverged, Guard
from tests.support.cases import BASE, case
from tests.support.inprocess import train_in
from tests.support.records import record

WILD = {
    **case("none", step_size=300.0, clip="none"),
    "rounds": 20,
    "evaluate": {"every": 1},
}  # x grows fivefold a round


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def evaluations(folder):
    lines = (json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines())
    return {entry["round"]: entry["loss"] for entry in lines if "loss" in entry}


def model(folder):
    return load_file(folder / "model.safetensors")["weight"]


def test_a_run_that_diverges_stops_says_why_and_keeps_its_last_good_model(tmp_path):
    with pytest.raises(
        Diverged, match=r"round \d+: the run has diverged: its loss is .* and was 0.6931 at the start"
    ) as end:
        train_in(WILD, tmp_path / "run")
    losses = evaluations(tmp_path / "run")
    *before, last = losses
    assert losses[last] > LIMIT >= max(losses[round_] for round_ in before) and last < 20
    facts = summary(tmp_path / "run")
    assert facts["status"] == "diverged" and facts["reason"] == str(end.value) and facts["rounds"] == last + 1
    for words in ("Set method.clip to a number (1.0, say), or method.step_size lower", "on_divergence=continue"):
        assert words in facts["reason"]
    assert f"the model of round {last - 1} is kept" in facts["reason"]
    train_in({**WILD, "rounds": last - 1}, tmp_path / "shorter")
    assert torch.equal(model(tmp_path / "run"), model(tmp_path / "shorter"))
    assert f"model after round {last - 1}," in evaluate(tmp_path / "run")


def test_told_so_a_run_trains_on_and_ends_as_diverged_all_the_same(tmp_path):
    train_in({**WILD, "on_divergence": "continue"}, tmp_path / "run")
    facts, losses = summary(tmp_path / "run"), evaluations(tmp_path / "run")
    assert facts["status"] == "diverged" and facts["rounds"] == 21 and facts["loss"] == losses[20] > 1e20
    good = max(round_ for round_, loss in losses.items() if loss <= LIMIT)
    assert f"the model of round {good} is kept" in facts["reason"]
    train_in({**WILD, "rounds": good}, tmp_path / "shorter")
    assert torch.equal(model(tmp_path / "run"), model(tmp_path / "shorter"))


def test_bad_rounds_on_the_way_are_no_matter_to_a_run_that_is_told_to_train_on(tmp_path):
    guard, metrics = Guard(parse({**BASE, "on_divergence": "continue"}), at := Metrics(tmp_path)), at
    for round_, loss in enumerate([1.0, 1e9, 0.5]):
        entry = record(round_, loss=loss)
        metrics.add(entry)
        guard.watch(entry, torch.zeros(2))
    assert guard.verdict("finished", 2) == ("finished", "")
    assert guard.verdict("stopped", 2) == ("stopped", "")
    metrics.close("finished")


@pytest.mark.parametrize("rule", ["continue", "stop"])
def test_a_model_that_is_not_finite_ends_the_run_and_the_one_before_is_kept(tmp_path, rule):
    config = {
        **case("none", step_size=1e200, clip="none"),
        "rounds": 20,
        "on_divergence": rule,
        "evaluate": {"every": 100},
    }
    with pytest.raises(Diverged, match="its model is not finite"):
        train_in(config, tmp_path / "run")
    assert summary(tmp_path / "run")["status"] == "diverged"
    assert torch.equal(model(tmp_path / "run"), torch.zeros(1, 12, dtype=torch.float64))  # x^0 was evaluated


@pytest.mark.parametrize(
    "first, loss, good",
    [
        (2.0, 2000.0, True),
        (2.0, 2000.1, False),
        (0.01, 1000.0, True),  # a good start is no reason to end a run that others would go on with
        (0.01, 1001.0, False),
        (-5.0, 5000.0, True),
        (-5.0, -1e12, True),
        (1.0, math.nan, False),
        (1.0, math.inf, False),
        (1.0, -math.inf, False),
        (math.nan, math.nan, False),
        (math.inf, 3.0, True),
    ],
)
def test_what_a_good_model_is(tmp_path, first, loss, good):
    metrics = Metrics(tmp_path)
    guard = Guard(parse({**BASE, "on_divergence": "continue"}), metrics)
    for round_, value in enumerate((first, loss)):
        metrics.add(record(round_, loss=value))
        guard.watch(record(round_, loss=value), torch.full((2,), float(round_)))
    assert guard.is_good == good and (guard.round == 1) == good
    metrics.close("finished")


def test_the_start_of_a_resumed_run_is_the_start_of_the_run(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.add(record(0, loss=50.0))
    metrics.add(record(1, loss=2.0))
    again = Metrics(tmp_path, json.loads(json.dumps(metrics.state())))
    guard = Guard(parse(BASE), again)
    guard.resume(1, torch.ones(2))
    assert guard.round == 1 and guard.is_good
    again.add(record(2, loss=40_000.0))
    guard.watch(record(2, loss=40_000.0), torch.ones(2))
    assert guard.round == 2
    again.add(record(3, loss=60_000.0))
    with pytest.raises(
        Diverged, match=r"its loss is 6e\+04 and was 50 at the start. Set method.step_size lower, or .*round 2 is"
    ):
        guard.watch(record(3, loss=60_000.0), torch.ones(2))
    metrics.close("failed"), again.close("failed")


def test_a_loss_that_has_grown_tenfold_is_named_once_while_the_run_goes_on(tmp_path, caplog):
    metrics = Metrics(tmp_path)
    guard = Guard(parse(BASE), metrics)
    caplog.clear()
    for round_, loss in enumerate((0.7, 6.9, 7.1, 20.0)):
        entry = record(round_, loss=loss)
        metrics.add(entry)
        guard.watch(entry, torch.zeros(2))
    metrics.close("finished")
    (message,) = caplog.messages
    assert "round 2: the loss is 7.1 and was 0.7 at the start" in message and "method.step_size lower" in message
