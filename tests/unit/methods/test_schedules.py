"""Schedules of the step size against their closed forms, and the clipping level, which follows the steps taken."""

import math
import sys
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from byzdist.attacks.base import Context
from byzdist.errors import ConfigError, RunError
from byzdist.methods.estimates import SGD
from byzdist.rounds import Round
from tests.support.cases import BASE, case
from tests.support.inprocess import train, train_in
from tests.support.runs import drop_after

FORMS = {
    "constant": ({"value": 0.3}, {0: 0.3, 7: 0.3}),
    "warmup": ({"value": 0.8, "rounds": 4}, {0: 0.2, 1: 0.4, 3: 0.8, 4: 0.8, 900: 0.8}),
    "cosine": (
        {"value": 1.0, "last": 0.2, "rounds": 6},
        {0: 1.0, 1: 0.2 + 0.4 * (1 + math.sqrt(3) / 2), 2: 0.8, 3: 0.6, 4: 0.4, 6: 0.2, 60: 0.2},
    ),
    "linear": ({"value": 1.0, "last": 0.5, "rounds": 5}, {0: 1.0, 1: 0.9, 4: 0.6, 5: 0.5, 50: 0.5}),
    "power": ({"value": 0.6, "exponent": 2.0}, {0: 0.6, 1: 0.15, 9: 0.006}),
    "step": (
        {"value": 0.8, "factor": 0.5, "every": 3},
        {0: 0.8, 2: 0.8, 3: 0.4, 5: 0.4, 6: 0.2, 10**6: sys.float_info.min},
    ),
}
SHORT = {
    "cosine": {"name": "cosine", "value": 0.4, "last": 0.05, "rounds": 9},
    "warmup": {"name": "warmup", "value": 0.4, "rounds": 6},
}


def halved(round_, *, start=0.5):
    """A schedule of a user's own, which ends."""
    return start / 2**round_ if round_ < 3 else 0.0


@pytest.mark.parametrize("name", FORMS)
def test_steps_are_those_of_the_formula(name):
    parameters, steps = FORMS[name]
    method = SGD(step_size={"name": name, **parameters}, cohort=2)
    assert [method.step(k) for k in steps] == pytest.approx(list(steps.values()), rel=1e-14)


def test_a_schedule_of_ones_own_is_used_and_its_steps_checked():
    method = SGD(step_size={"name": f"{__name__}:halved", "start": 1.0}, cohort=2)
    assert [method.step(k) for k in range(3)] == [1.0, 0.5, 0.25]
    with pytest.raises(RunError, match="gives 0.0 for round 3"):
        method.step(3)
    with pytest.raises(ConfigError, match="method.step_size.stop"):
        SGD(step_size={"name": f"{__name__}:halved", "stop": 1.0}, cohort=2).step(0)


@pytest.mark.parametrize("name", ["byz_vr_marina_pp", "sgd"])
@pytest.mark.parametrize("schedule", SHORT)
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_clipping_level_follows_the_step_taken(name, schedule, decay, tmp_path):
    """λ_k = α‖x^k - x^{k-1}‖, of the models themselves."""
    tree = case("none", name=name, clip=0.7, clip_growth="none", step_size=SHORT[schedule], weight_decay=decay) | {
        "rounds": 12
    }
    models = []
    lines = train(tree, tmp_path, tamper=lambda server, round_: models.append(server.x.clone())).metrics
    sampled = [line["round"] for line in lines if line["kind"] == "sampled"]
    assert len(sampled) > 5 and len(models) == 13
    for k in sampled:
        moved = float(torch.linalg.vector_norm(models[k] - models[k - 1]))
        assert moved > 0 and lines[k]["clip_level"] == pytest.approx(0.7 * moved, rel=1e-9)


def test_a_constant_schedule_is_the_number(tmp_path):
    tree = BASE | {"rounds": 6}
    schedule = case("none", step_size={"name": "constant", "value": 0.3}) | {"rounds": 6}
    assert torch.equal(train_in(tree, tmp_path / "a"), train_in(schedule, tmp_path / "b"))


def test_a_run_with_a_schedule_is_resumed_to_the_same_bits(tmp_path):
    tree = case("ipm", step_size=SHORT["cosine"], weight_decay=0.05) | {
        "rounds": 12,
        "checkpoint": {"every": 1, "keep": 100},
    }
    whole = train_in(tree, tmp_path)
    assert 1 <= drop_after(tmp_path, 7) <= 7
    assert torch.equal(train_in(tree, tmp_path, resume=True), whole)


def test_attackers_read_the_estimate_from_the_step_that_was_taken():
    """An attack that knows g sees it whatever the schedule: with last_step, not the step to come."""
    g, step = torch.tensor([3.0, -4.0]), 0.25
    x = torch.tensor([1.0, 2.0])
    about = dict.fromkeys(("honest", "start", "colluders", "rule", "pre", "clip", "compressor"))
    about |= {"round": Round(4, 0), "client": 0, "clients": 1, "byzantine": (), "f": 0, "difference": True}
    context = Context(x=x - step * g, previous=x, step_size=9.0, last_step=step, **about)
    torch.testing.assert_close(context.g, g)
    decayed = replace(context, x=(1 - step * 0.1) * x - step * g, weight_decay=0.1)
    torch.testing.assert_close(decayed.g, g)


@pytest.mark.parametrize("name", ["byz_vr_marina_pp", "momentum_sgd"])
def test_weights_decay_as_with_torchs_optimizer(name, tmp_path):
    """One client, full batches, no clipping: torch's SGD adds w·x to the gradient, which is the same step."""
    alone = {"clients": {"count": 1}, "aggregation": {"rule": "mean"}, "rounds": 25}
    method = {"name": name, "cohort": 1, "batch_size": 1000, "clip": "none", "weight_decay": 0.2}
    tree = {
        **case("none", **method, momentum=0.0 if name == "momentum_sgd" else None, step_size=SHORT["cosine"]),
        **alone,
    }
    trained = train(tree, tmp_path)
    oracle, rounds = trained.experiment.oracle, float(cast(Any, SHORT["cosine"]["rounds"]))
    x = torch.nn.Parameter(oracle.initial())
    optimizer = torch.optim.SGD([x], lr=1.0, weight_decay=0.2)
    for k in range(25):
        part = min(1.0, k / rounds)
        optimizer.param_groups[0]["lr"] = 0.05 + 0.35 * (1 + math.cos(math.pi * part)) / 2
        x.grad = torch.empty_like(x)
        oracle.gradient(x.detach(), 0, None, x.grad)
        optimizer.step()
    torch.testing.assert_close(trained.x, x.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "level"), [(2.0, 3.0), (4.0, 3.0), (8.0, 1.5), (0.0, 3.0)])
def test_the_caps_shrink_the_level_of_decaying_weights_as_that_of_others(size, level):
    method = SGD(step_size=0.5, cohort=2, clip=2.0, weight_decay=0.1)
    assert method.clip_level(size, 2.0, moved=1.5) == level
    assert SGD(step_size=0.5, cohort=2, clip=2.0, clip_reference="gradient").clip_level(3.0, moved=1.5) == 6.0
