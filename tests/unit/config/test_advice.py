import logging

import numpy as np
import pytest
import torch
import yaml

from byzdist.aggregation import Aggregator
from byzdist.attacks.effect import Effect
from byzdist.cli.main import main
from byzdist.config.reading import load, parse
from byzdist.problem.models.logistic_regression import LogisticRegression
from byzdist.runtime import advice
from byzdist.runtime.experiment import prepare
from tests.support.cases import BASE
from tests.support.harness import ROOT
from tests.support.inprocess import train, train_in

GOOD = {**BASE, "clients": {"count": 20, "byzantine": 5}, "aggregation": {"rule": "coordinate_median"}}


def configured(method=None, **sections):
    return {**GOOD, "method": {**BASE["method"], "cohort": 4, **(method or {})}, **sections}


def said(caplog, tree):
    """Return the warnings of a configuration and of its run's start."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="byzdist"):
        advice.of_run(prepare(parse(tree), torch.device("cpu")))
    return caplog.messages


def test_sound_settings_are_free_of_warnings(caplog):
    assert not said(caplog, configured({"clip": 1.0, "p": 0.2, "step_size": 0.2}))


@pytest.mark.parametrize("name", ["quickstart", "cluster/compose", "paper/fig1_sound", "paper/mnist_cnn_clip"])
def test_the_settings_that_come_along_hold(caplog, name):
    """Full rounds tolerate all that are declared, no minority can feed the level, and sampled rounds are not a plain mean."""
    with caplog.at_level(logging.INFO, logger="byzdist"):
        config = load(ROOT / f"configs/{name}.yaml", ["data={name: synthetic}"] if "paper" in name else [])
    assert not caplog.messages and not config.aggregation.allow_breakdown
    count, declared, method = config.clients.count, config.declared_byzantine, config.method.parameters
    rule = Aggregator(config.aggregation.rule, config.aggregation.pre)
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((method["cohort"], 8)))
    assert rule.max_byzantine(method["full_cohort"] or count) >= declared == config.clients.byzantine > 0
    result = rule(rows, f=declared * len(rows) // count, generator=np.random.default_rng(0)).vector
    assert not torch.allclose(result, rows.mean(0))
    if "marina" in config.method.name:
        assert method["clip"] * method["step_size"] <= method["p"] * count / (2 * declared) * (1 + 1e-9)


def test_each_warning_comes_once_at_the_start_of_a_run_and_in_its_check(caplog, capsys, tmp_path):
    data = {**BASE["data"], "classes": 10, "samples": 200, "split": {"name": "by_label", "holders": "all"}}
    tree = configured({"step_size": 5.0}, rounds=1, data=data)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    keys = ["data.split", "method.clip", "method.step_size"]
    for tell in (lambda: train_in(tree, tmp_path / "run"), lambda: main(["check", str(tmp_path / "config.yaml")])):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="byzdist"):
            tell()
        assert sorted(message.partition(":")[0] for message in caplog.messages) == keys


@pytest.mark.parametrize(
    "cohort, aggregation, f",
    [
        (4, {"rule": "coordinate_median", "pre": [{"name": "bucketing", "size": 2}], "allow_breakdown": True}, 0),
        (2, {"rule": "coordinate_median"}, 0),
        (3, {"rule": "trimmed_mean"}, 0),  # of 3, 5/20 · 3 < 1 are expected to be Byzantine
    ],
)
def test_a_rule_that_averages_in_sampled_rounds_is_named(caplog, cohort, aggregation, f):
    tree = configured({"cohort": cohort, "step_size": 0.05}, aggregation=aggregation)
    text = f"of the {cohort} vectors of a sampled round (method.cohort), with f = {f}, {aggregation['rule']} with its steps makes"
    assert sum(text in message and "only clipping limits" in message for message in said(caplog, tree)) == 1
    tree["method"]["clip"] = "none"
    assert sum(text in message and "one Byzantine client decides" in message for message in said(caplog, tree)) == 1
    assert not any("plain mean" in message for message in said(caplog, {**tree, "clients": {"count": 20}}))


@pytest.mark.parametrize(
    "cohort, rule, most, wanted",
    [(4, "krum", 0, 1), (5, "krum", 1, 1), (4, {"name": "ctma", "rule": "krum"}, 0, 1), (8, "krum", 2, 2)],
)
def test_an_f_that_is_lowered_in_sampled_rounds_is_named(caplog, cohort, rule, most, wanted):
    messages = said(caplog, configured({"cohort": cohort, "step_size": 0.05}, aggregation={"rule": rule}))
    lowered = [message for message in messages if f"accepts {most} as Byzantine, and {wanted} are" in message]
    assert len(lowered) == (most < wanted)


def test_a_plain_mean_without_clipping_is_named(caplog):
    plus = {"name": "byz_vr_marina_pp_plus", "clip": "none"}
    (message,) = said(caplog, configured(plus))
    assert "method.clip: without clipping the sampled rounds of byz_vr_marina_pp_plus are a plain mean" in message
    assert not said(caplog, configured(plus, clients={"count": 20}))


@pytest.mark.parametrize(
    "clip, p, reference, warned",
    [
        (1.0, 0.2, "step", False),
        (1.45, 0.2175, "step", False),  # equal, but for rounding
        (1.5, 0.2, "step", True),
        (0.5, 0.2, "gradient", True),
    ],
)
def test_a_level_that_can_feed_itself_is_named_with_the_numbers(caplog, clip, p, reference, warned):
    # δ = 1/4, step size 0.3: safe are clip · 0.3 <= 2 p, and clip <= 2 p with the authors' reference.
    tree = configured({"clip": clip, "p": p, "clip_reference": reference})
    messages = [message for message in said(caplog, tree) if message.startswith("method.clip: the level is")]
    assert len(messages) == warned
    if warned and reference == "step":
        assert (
            "0.45 ‖g‖, above p/(2δ) = 0.4" in messages[0] and "clip up to 1.33 or a method.p from 0.225" in messages[0]
        )
        assert "clip_growth limits it to 2.0 times" in messages[0]


def test_full_rounds_that_can_hardly_be_trusted_are_named(caplog):
    clients = {**GOOD["clients"], "availability": {"name": "bernoulli", "q": 0.3}}
    (message,) = said(caplog, configured({"step_size": 0.2}, clients=clients))
    # At least 11 of 20 must be there for the median to tolerate 5.
    chance = np.mean(np.random.default_rng(1).binomial(20, 0.3, 10**6) >= 11)
    assert chance == pytest.approx(0.0171, abs=5e-4)
    assert "q = 0.3 a full round can be trusted with probability 0.017: 11 clients must take part" in message
    often = {**GOOD["clients"], "availability": {"name": "bernoulli", "q": 0.5}}
    assert not said(caplog, configured({"step_size": 0.2}, clients=often))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_the_lipschitz_constant_bounds_the_hessian_and_is_met_at_zero(classes, bias):
    tree = {**GOOD, "data": {**BASE["data"], "classes": classes}, "model": {**BASE["model"], "bias": bias}}
    experiment = prepare(parse(tree), torch.device("cpu"))
    model, ((features, _), _) = experiment.oracle.loss.model, experiment.shared_data.first(BASE["data"]["samples"])
    assert isinstance(model, LogisticRegression)
    found, largest = advice.lipschitz(experiment), 0.0
    for seed in range(5):
        x = torch.from_numpy(np.random.default_rng(seed).standard_normal(experiment.oracle.dimension)) * seed
        hessian = model.hessian(x, features) / len(features)
        top = float(torch.linalg.eigvalsh(hessian)[-1]) + 2 * 0.01
        assert top <= found * (1 + 1e-12)
        largest = max(largest, top)
    if classes == 2:
        assert largest == pytest.approx(found, rel=1e-12)


def test_a_step_above_the_theorys_is_named(caplog):
    found = advice.lipschitz(prepare(parse(GOOD), torch.device("cpu")))
    for times in (0.99, 1.01):
        messages = said(caplog, configured({"step_size": times / found, "clip": 0.01}))
        assert sum(message.startswith("method.step_size:") for message in messages) == (times > 1)
    mlp = configured({"step_size": 100.0, "clip": 0.001}, model={"name": "mlp"})
    assert not said(caplog, mlp)  # nothing is known


def test_a_level_below_the_curvature_is_named_once_and_the_clip_that_is_advised_is_about_the_curvature(
    caplog, tmp_path
):
    tree = configured(
        {"clip": 0.001, "p": 0.01, "step_size": 0.1}, rounds=250, clients={"count": 20}, evaluate={"every": 1000}
    )
    with caplog.at_level(logging.WARNING, logger="byzdist.reporting.round_warnings"):
        train(tree, tmp_path, workers=1)
    (message,) = [message for message in caplog.messages if "nearly every reply was clipped" in message]
    advised = float(message.partition("set method.clip to about ")[2].partition(" instead")[0])
    assert 0.05 < advised < 2 * advice.lipschitz(prepare(parse(tree), torch.device("cpu")))


def test_an_attack_without_effect_is_named_once_and_others_are_not(caplog):
    honest = torch.arange(3.0)
    idle, late = Effect(), Effect()
    with caplog.at_level(logging.WARNING, logger="byzdist"):
        for count in range(300):
            before = idle.before(honest)
            idle.after(before, honest.clone(), "idle")
            before = late.before(honest)
            late.after(before, honest + (count == 99), "late")
    (message,) = caplog.messages
    assert "attack: idle has had no effect: each of the first 100 messages equals the honest one" in message
    assert idle.before(honest) is None and late.before(honest) is None


@pytest.mark.parametrize(
    "attack, byzantine, warned",
    [("shift_back", 1, True), ("bit_flip", 1, False), ("none", 1, False), ("label_flip", 1, False)],
)
def test_a_run_says_so(caplog, tmp_path, attack, byzantine, warned):
    tree = configured(
        {"cohort": 18, "p": 0.5, "step_size": 0.1}, rounds=120, attack={"name": attack}, evaluate={"every": 1000}
    )
    tree["clients"] = {"count": 20, "byzantine": byzantine}
    with caplog.at_level(logging.WARNING, logger="byzdist"):
        train(tree, tmp_path, workers=1)
    assert sum(f"attack: {attack} has had no effect" in message for message in caplog.messages) == warned


def test_a_level_above_the_curvature_is_not_named(caplog, tmp_path):
    tree = configured(
        {"clip": 5.0, "p": 0.01, "step_size": 0.1}, rounds=120, clients={"count": 20}, evaluate={"every": 1000}
    )
    with caplog.at_level(logging.WARNING, logger="byzdist.reporting.round_warnings"):
        train(tree, tmp_path, workers=1)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("method", "warns"),
    [
        ({"name": "sgd"}, True),
        ({"name": "sgd", "server_optimizer": "adam"}, False),
        ({"name": "local_steps", "steps": 2, "inner": {"name": "sgd", "step_size": 0.1}}, False),
    ],
)
def test_only_steps_along_a_gradient_are_measured_by_its_lipschitz_constant(caplog, method, warns):
    tree = configured() | {"method": {"step_size": 50.0, "cohort": 4, "clip": "none"} | method}
    assert any("times 1/L" in message for message in said(caplog, tree)) == warns
