"""The reported numbers against their definitions: f is the mean over the honest clients of their mean losses."""

import numpy as np
import pytest
import torch

from byzdist.problem import data, models
from byzdist.problem.data import Dataset
from byzdist.problem.evaluation import Evaluator, measured_of
from byzdist.problem.objective import sample_groups
from byzdist.randomness import stream
from tests.support.problem import oracle_of

SPLITS = [{"name": "shared"}, {"name": "iid"}, {"name": "by_label"}, {"name": "dirichlet", "alpha": 0.3}]
MODELS = [{"name": "logistic_regression", "l2": 0.01}, {"name": "mlp", "hidden": [4], "l2": 0.02}]
CLIENTS, GOOD = 6, range(4)


def make(split, model, classes=3, test=True, samples=101):
    generator = stream(1, "evaluation test")
    features, labels = generator.standard_normal((samples, 5)), generator.integers(classes, size=samples)
    extra = (generator.standard_normal((40, 5)), generator.integers(classes, size=40)) if test else (None, None)
    dataset = Dataset("test", features, labels, *extra, classes)
    built = models.build(model, (5,), classes, seed=0)
    oracle = oracle_of(built, dataset, data.split(split, labels, CLIENTS, 0))
    return dataset, oracle, torch.from_numpy(generator.standard_normal(oracle.dimension)) * 0.3


def scores(oracle, x, features):
    with torch.no_grad():
        return torch.nn.utils.vector_to_parameters(x, oracle.loss.model.parameters()) or oracle.loss.model(features)


def definition(oracle, x):
    """f, its gradient and its accuracy client by client, from the module itself."""
    losses, accuracies, gradient = [], [], torch.zeros_like(x)
    for client in GOOD:
        positions = oracle.data.split.indices(client)
        positions = np.arange(oracle.samples(client)) if positions is None else positions
        out, labels = torch.empty_like(x), oracle.data.targets[positions]
        oracle.gradient(x, client, None, out)
        gradient += out / len(GOOD)
        logits = scores(oracle, x, oracle.data.features[positions])
        if logits.ndim == 1:
            logits = torch.stack([torch.zeros_like(logits), logits], 1)
        chosen = logits.log_softmax(1)[torch.arange(len(labels)), labels]
        losses.append(-chosen.mean() + oracle.loss.l2 * x @ x)
        accuracies.append((logits.argmax(1) == labels).double().mean())
    return float(np.mean(losses)), float(np.mean(accuracies)), float(gradient.norm())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_loss_gradient_and_accuracy_are_as_defined(split, model, classes):
    dataset, oracle, x = make(split, model, classes, test=False)
    loss, accuracy, norm = definition(oracle, x)
    measured = Evaluator(oracle.loss, oracle.data, dataset, GOOD, optimum=0.25).evaluate(x)
    assert set(measured) == set(measured_of(oracle.loss.task)), "else it would miss the summary and the file to scrape"
    assert measured["loss"] == pytest.approx(loss, rel=1e-13)
    assert measured["gap"] == pytest.approx(loss - 0.25, rel=1e-12)
    assert measured["accuracy"] == pytest.approx(accuracy, rel=1e-13)
    assert measured["grad_norm"] == pytest.approx(norm, rel=1e-12)
    oracle.data.chunk = 7
    assert Evaluator(oracle.loss, oracle.data, dataset, GOOD).evaluate(x) == pytest.approx(
        {key: measured[key] for key in ("loss", "accuracy", "grad_norm")}, rel=1e-12
    )


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_accuracy_is_that_of_the_test_set_where_there_is_one(model):
    dataset, oracle, x = make({"name": "iid"}, model)
    oracle.data.chunk = 7
    measured = Evaluator(oracle.loss, oracle.data, dataset, GOOD).evaluate(x)
    predicted = scores(oracle, x, torch.from_numpy(dataset.test_features)).argmax(1).numpy()
    assert measured["accuracy"] == pytest.approx((predicted == dataset.test_labels).mean())
    assert "gap" not in measured


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_weights_sum_to_one_and_spare_the_byzantine(split):
    _, oracle, _ = make(split, MODELS[0])
    weights = np.zeros(101)
    for weight, positions in sample_groups(oracle.data.split, GOOD):
        weights[slice(None) if positions is None else positions] += weight
    assert weights.sum() == pytest.approx(1)
    for client in range(CLIENTS):
        positions = oracle.data.split.indices(client)
        if positions is not None:
            expected = 1 / (len(GOOD) * len(positions)) if client in GOOD else 0
            np.testing.assert_allclose(weights[positions], expected)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_an_estimate_from_a_draw_is_near_and_repeatable(split):
    dataset, oracle, x = make(split, MODELS[0])
    exact = Evaluator(oracle.loss, oracle.data, dataset, GOOD).evaluate(x)
    drawn = [
        Evaluator(oracle.loss, oracle.data, dataset, GOOD, samples=20000, seed=seed).evaluate(x) for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    for estimate in drawn:
        assert estimate["loss"] == pytest.approx(exact["loss"], rel=0.03)
        assert estimate["accuracy"] == exact["accuracy"]  # the test set is smaller than the draw
    few = Evaluator(oracle.loss, oracle.data, dataset, GOOD, samples=10).evaluate(x)
    assert round(few["accuracy"] * 10) == pytest.approx(few["accuracy"] * 10)  # of ten test samples


def test_many_clients_make_few_groups():
    labels = np.arange(20001) % 10
    split = data.split({"name": "iid"}, labels, 10000, 0)
    groups = sample_groups(split, range(9000))
    assert len(groups) == 2  # shards of two samples and of three
    assert sum(len(positions) for _, positions in groups) == sum(split.size(client) for client in range(9000))


def test_a_model_that_diverged_is_measured_and_not_an_error():
    dataset, oracle, x = make(SPLITS[1], MODELS[0])
    measured = Evaluator(oracle.loss, oracle.data, dataset, GOOD, optimum=0.1).evaluate(torch.full_like(x, torch.nan))
    assert np.isnan(measured["loss"]) and np.isnan(measured["gap"]) and 0 <= measured["accuracy"] <= 1
