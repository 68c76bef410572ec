"""The minimum of f against an independent solver and against the definition of a minimum."""

import logging
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import nn

from byzdist.problem import data, models, optimum
from byzdist.problem.data import Dataset
from byzdist.problem.evaluation import Evaluator
from byzdist.problem.loss import Loss
from byzdist.problem.models.logistic_regression import LogisticRegression
from byzdist.problem.objective import Objective, sample_groups
from byzdist.problem.tasks import TASKS
from byzdist.problem.tasks.classification import CLASSIFICATION
from byzdist.randomness import stream
from tests.support.problem import oracle_of
from tests.support.standins import watched

GOOD = range(3)
SPLITS = [{"name": "shared"}, {"name": "dirichlet", "alpha": 0.3}]


def make(classes, key="test", samples=80, shift=0.0):
    generator = stream(1, "optimum test")
    features = generator.standard_normal((samples, 4)) * [1, 3, 0.1, 1] + shift
    return Dataset(key, features, generator.integers(classes, size=samples), None, None, classes)


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "conjugate gradients"])
@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_no_other_solver_finds_less(classes, bias, split, direct):
    dataset = make(classes)
    spec = {"name": "logistic_regression", "l2": 0.003, "bias": bias}
    parts = data.split(split, dataset.labels, 4, 0)
    oracle = oracle_of(models.build(spec, (4,), classes, 0), dataset, parts)
    objective, gradient = Objective(oracle.loss, oracle.data, sample_groups(parts, GOOD)), oracle.initial()
    found = optimum.minimize(objective, direct=2048 if direct else 0)
    evaluator = Evaluator(oracle.loss, oracle.data, dataset, GOOD, optimum=found)

    def value(x):
        loss, _ = objective(torch.from_numpy(x), gradient)
        return loss, gradient.numpy().copy()

    other = scipy_minimize(value, oracle.initial().numpy(), jac=True, method="BFGS", options={"gtol": 1e-9})
    gap = evaluator.evaluate(torch.from_numpy(other.x))["gap"]
    assert -1e-15 <= gap <= 1e-12


def test_a_difficult_start_needs_shorter_steps(tmp_path):
    """Features far from zero: full Newton steps overshoot here, and the line search must save the method."""
    dataset = make(2, samples=400, shift=30.0)
    spec = {"name": "logistic_regression", "l2": 1e-9}
    parts = data.split({"name": "shared"}, dataset.labels, 4, 0)
    model = models.build(spec, (4,), 2, 0)
    assert isinstance(model, LogisticRegression)
    model.weight.data.fill_(1.0)
    oracle = oracle_of(model, dataset, parts)
    objective = Objective(oracle.loss, oracle.data, sample_groups(parts, GOOD))
    assert optimum.minimize(objective) == pytest.approx(
        optimum.find_optimum(spec, CLASSIFICATION, dataset, parts, GOOD, tmp_path), abs=1e-14
    )


def test_a_users_convex_model_is_minimized_too(tmp_path):
    class LeastSquares(nn.Module):
        convex, l2 = True, 0.1

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(4))

        def forward(self, features):
            return features @ self.w

        def loss(self, logits, labels):
            return (logits - labels).square().mean()

    dataset = make(3)
    parts = data.split({"name": "shared"}, dataset.labels, 4, 0)
    oracle = oracle_of(LeastSquares(), dataset, parts)
    found = optimum.minimize(Objective(oracle.loss, oracle.data, sample_groups(parts, GOOD)))
    a, b = dataset.features, dataset.labels
    w = np.linalg.solve(a.T @ a / 80 + 0.1 * np.eye(4), a.T @ b / 80)
    assert found == pytest.approx(np.square(a @ w - b).mean() + 0.1 * w @ w, rel=1e-14)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [({"name": "mlp", "l2": 0.1}, None), ({"name": "logistic_regression"}, "l2 = 0")],
)
def test_none_where_there_is_no_minimum_to_be_found(tmp_path, caplog, spec, reason):
    caplog.set_level(logging.WARNING)
    dataset = make(2)
    parts = data.split({"name": "shared"}, dataset.labels, 4, 0)
    assert not optimum.can_be_found(Loss(models.build(spec, (4,), 2, 0), CLASSIFICATION, dtype=torch.float32), 80)
    assert reason in caplog.text if reason else not caplog.messages
    assert optimum.find_optimum(spec, CLASSIFICATION, dataset, parts, GOOD, tmp_path) is None


def test_none_where_it_would_take_minutes(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(optimum, "_MAX_WORK", 80 * 4 - 1)
    dataset = make(2)
    parts = data.split({"name": "shared"}, dataset.labels, 4, 0)
    assert (
        optimum.find_optimum({"name": "logistic_regression", "l2": 0.1}, CLASSIFICATION, dataset, parts, GOOD, tmp_path)
        is None
    )
    assert "the gap is not reported: finding the minimum over 80 samples and 4 parameters takes minutes" in caplog.text


@pytest.fixture
def solved():
    """The problems that were solved."""
    with watched(optimum, "minimize") as calls:
        yield calls


def test_what_was_found_is_kept_by_data_weights_and_model(tmp_path, solved):
    spec, dataset = {"name": "logistic_regression", "l2": 0.1}, make(2)
    parts = data.split({"name": "iid"}, dataset.labels, 4, 0)
    found = optimum.find_optimum(spec, CLASSIFICATION, dataset, parts, GOOD, tmp_path)
    assert optimum.find_optimum(spec, CLASSIFICATION, dataset, parts, GOOD, tmp_path) == found and len(solved) == 1
    others = [
        ({**spec, "l2": 0.2}, CLASSIFICATION, dataset, parts, GOOD),
        (spec, CLASSIFICATION, make(2, key="other"), parts, GOOD),
        (spec, CLASSIFICATION, dataset, data.split({"name": "iid"}, dataset.labels, 4, 1), GOOD),
        (spec, CLASSIFICATION, dataset, parts, range(2)),
    ]
    for number, other in enumerate(others, 2):
        optimum.find_optimum(*other, tmp_path)
        assert len(solved) == number
    for file in tmp_path.glob("optimum/*.json"):
        file.write_text("{torn")
    assert optimum.find_optimum(spec, CLASSIFICATION, dataset, parts, GOOD, tmp_path) == found


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    dataset = make(2)
    parts = data.split({"name": "shared"}, dataset.labels, 4, 0)
    assert (
        optimum.find_optimum(
            {"name": "logistic_regression", "l2": 0.1}, CLASSIFICATION, dataset, parts, GOOD, tmp_path / "file"
        )
        is not None
    )
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("task", ["regression", "multi_label"])
def test_a_linear_map_has_a_minimum_in_other_tasks_as_well(tmp_path, task):
    generator = stream(2, "optimum test")
    features = generator.standard_normal((80, 4))
    targets = generator.standard_normal((80, 2)) if task == "regression" else generator.integers(2, size=(80, 2)) * 1.0
    dataset = Dataset("t", features, cast(Any, targets), None, None, 2)
    parts = data.split({"name": "iid"}, dataset.labels, 4, 0)
    learnt = TASKS.get(task)()
    found = optimum.find_optimum({"name": "linear", "l2": 0.05}, learnt, dataset, parts, GOOD, tmp_path)
    oracle = oracle_of(models.build({"name": "linear", "l2": 0.05}, (4,), 2, 0), dataset, parts, task=learnt)
    objective, gradient = Objective(oracle.loss, oracle.data, sample_groups(parts, GOOD)), oracle.initial()

    def value(x):
        loss, _ = objective(torch.from_numpy(x), gradient)
        return loss, gradient.numpy().copy()

    other = scipy_minimize(value, oracle.initial().numpy(), jac=True, method="BFGS", options={"gtol": 1e-9})
    assert found == pytest.approx(other.fun, rel=1e-12)
