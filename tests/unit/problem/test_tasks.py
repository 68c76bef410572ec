"""Losses and metrics of the tasks against scikit-learn and their definitions; sums and counts in any batches."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as sklearn_metrics
from torch import nn

from byzdist.errors import ConfigError
from byzdist.problem import data
from byzdist.problem.data import Dataset
from byzdist.problem.data.arrays import as_arrays, outputs
from byzdist.problem.data.splits import Split
from byzdist.problem.evaluation import Evaluator
from byzdist.problem.task import Metric, Task, output_of
from byzdist.problem.tasks import TASKS
from byzdist.randomness import stream
from tests.support.problem import oracle_of

F64 = np.dtype(np.float64)
SAMPLES, CLIENTS, HONEST = 60, 5, range(4)


def numbers(shape, seed=0):
    return stream(seed, "task test").standard_normal(shape)


def task_of(name):
    return TASKS.get(name)()


def dataset_of(samples, task):
    arrays = as_arrays(samples, "mine", F64, task)
    return Dataset("t", arrays["features"], arrays["labels"], None, None, outputs(arrays, task))


class Words(nn.Module):
    """Logits for each token from the token alone."""

    def __init__(self, vocabulary):
        super().__init__()
        self.embed, self.out = nn.Embedding(vocabulary, 6), nn.Linear(6, vocabulary)

    def forward(self, tokens):
        return self.out(torch.tanh(self.embed(tokens)))


def evaluated(model, dataset, task, split="iid", chunk=7):
    oracle = oracle_of(model, dataset, data.split({"name": split}, dataset.labels, CLIENTS, 0), task=task)
    oracle.data.chunk = chunk
    x = oracle.initial()
    return oracle, x, Evaluator(oracle.loss, oracle.data, dataset, HONEST).evaluate(x)


def held(oracle, client):
    indices = oracle.data.split.indices(client)
    return slice(None) if indices is None else indices


@pytest.mark.parametrize("targets", [1, 3])
def test_regression_is_mean_squared_error(targets):
    task = task_of("regression")
    y = numbers((SAMPLES, targets), 1)
    dataset = dataset_of((numbers((SAMPLES, 4)), y[:, 0] if targets == 1 else y), task)
    assert dataset.classes == targets
    model = nn.Linear(4, targets).double()
    oracle, _, measured = evaluated(model, dataset, task, split="shared")
    predicted = model(torch.from_numpy(dataset.features)).detach().numpy()
    assert measured["loss"] == pytest.approx(sklearn_metrics.mean_squared_error(y, predicted), rel=1e-12)
    assert measured["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(y, predicted), rel=1e-12)
    assert measured["rmse"] == pytest.approx(math.sqrt(sklearn_metrics.mean_squared_error(y, predicted)), rel=1e-12)


def test_multi_label_is_binary_cross_entropy_and_micro_f1():
    task = task_of("multi_label")
    y = (numbers((SAMPLES, 3), 1) > 0.3).astype(int)
    dataset = dataset_of((numbers((SAMPLES, 4)), y), task)
    assert dataset.classes == 3
    model = nn.Linear(4, 3).double()
    _, _, measured = evaluated(model, dataset, task, split="shared")
    logits = model(torch.from_numpy(dataset.features)).detach()
    predicted = (logits > 0).numpy()
    assert measured["f1"] == pytest.approx(sklearn_metrics.f1_score(y, predicted, average="micro"), rel=1e-12)
    assert measured["accuracy"] == pytest.approx((predicted == y).mean(), rel=1e-12)
    expected = sklearn_metrics.log_loss(y.ravel(), logits.sigmoid().numpy().ravel())
    assert measured["loss"] == pytest.approx(expected, rel=1e-12)


def padded(rows=SAMPLES, length=9):
    """Windows of tokens of which some targets do not count: a different number for each sample."""
    tokens = stream(2, "tokens").integers(0, 11, (rows, length + 1))
    targets = tokens[:, 1:].copy()
    for row, kept in enumerate(stream(3, "kept").integers(1, length + 1, rows)):
        targets[row, kept:] = -100
    return tokens[:, :-1], targets


def definition_of_next_token(oracle, x):
    """f, its gradient and its metrics, client by client, by functions of torch alone."""
    losses, gradient = [], torch.zeros_like(x)
    for client in HONEST:
        rows = held(oracle, client)
        tokens, targets = oracle.data.features[rows], oracle.data.targets[rows]

        def loss(flat, tokens=tokens, targets=targets):
            weights = oracle.loss.flat.pieces(flat)
            logits = torch.func.functional_call(oracle.loss.model, weights, (tokens,))
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

        losses.append(float(loss(x)))
        gradient += torch.func.grad(loss)(x) / len(HONEST)
    return float(np.mean(losses)), gradient


@pytest.mark.parametrize("chunk", [3, 7, 1000])
def test_a_loss_of_sums_and_counts_is_a_quotient_of_all_of_them(chunk):
    """Batches of other sizes, with other numbers of tokens that count, give the same loss, gradient and perplexity."""
    task = task_of("next_token")
    dataset = dataset_of(padded(), task)
    assert dataset.classes == 11 and dataset.features.dtype == dataset.labels.dtype == np.int64
    oracle, x, measured = evaluated(Words(11), dataset, task, chunk=chunk)
    loss, gradient = definition_of_next_token(oracle, x)
    assert measured["loss"] == pytest.approx(loss, rel=1e-12)
    assert measured["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-12)
    out = torch.empty_like(x)
    total = torch.zeros_like(x)
    for client in HONEST:
        oracle.gradient(x, client, None, out)
        total += out / len(HONEST)
    torch.testing.assert_close(total, gradient, rtol=1e-11, atol=1e-13)


def test_perplexity_is_of_all_tokens_of_one_client():
    task = task_of("next_token")
    dataset = dataset_of(padded(), task)
    oracle, _, measured = evaluated(Words(11), dataset, task, split="shared")
    assert measured["perplexity"] == pytest.approx(math.exp(measured["loss"]), rel=1e-12)
    logits = oracle.loss.outputs(oracle.initial(), oracle.data.features)
    counts = oracle.data.targets != -100
    assert measured["accuracy"] == pytest.approx(
        float((logits.argmax(-1) == oracle.data.targets)[counts].double().mean()), rel=1e-12
    )


def test_a_difference_of_sums_and_counts_is_that_of_its_two_gradients():
    task = task_of("next_token")
    oracle, x, _ = evaluated(Words(11), dataset_of(padded(), task), task, chunk=3)
    new, old, out = x + 0.1, x - 0.2, torch.empty_like(x)
    batch = np.array([0, 3, 5, 6, 1])
    oracle.difference(new, old, 1, batch, out)
    parts = [torch.empty_like(x), torch.empty_like(x)]
    for point, part in zip((new, old), parts, strict=True):
        oracle.gradient(point, 1, batch, part)
    torch.testing.assert_close(out, parts[0] - parts[1], rtol=1e-10, atol=1e-13)


def test_a_batch_of_which_nothing_counts_has_the_gradient_of_the_regularizer_alone():
    task, (tokens, targets) = task_of("next_token"), padded()
    targets[:5] = -100
    oracle, x, _ = evaluated(Words(11), dataset_of((tokens, targets), task), task, split="shared")
    out = torch.full_like(x, torch.nan)
    oracle.gradient(x, 0, np.arange(5), out)
    assert torch.equal(out, torch.zeros_like(x))
    batch = oracle.data.features[:5], oracle.data.targets[:5]
    assert oracle.loss.measure(x, batch, 5).loss == 0.0


def test_ones_own_loss_may_call_the_model_as_it_likes_and_costs_one_forward_where_it_is_measured():
    calls = []

    class Two(nn.Linear):
        def forward(self, inputs):
            calls.append(len(inputs))
            return {"logits": super().forward(inputs), "extra": inputs}

    def loss(model, batch):
        inputs, targets = batch
        return (model(inputs)["logits"][:, 0] - targets).abs().sum(), len(targets)

    task = Task(loss, {"mean": Metric(lambda model, batch: (output_of(model, batch[0]).sum(), len(batch[1])), "lower")})
    y = numbers(SAMPLES, 1)
    dataset = Dataset("t", numbers((SAMPLES, 4)), y, None, None, 0)
    model = Two(4, 1).double()
    oracle, x, _ = evaluated(model, dataset, task, split="shared", chunk=20)
    calls.clear()
    measured = Evaluator(oracle.loss, oracle.data, dataset, HONEST).evaluate(x)
    assert calls == [20, 20, 20], "one forward a batch, for loss and metric"
    predicted = dataset.features @ model.weight.detach().numpy()[0] + float(model.bias.detach())
    assert measured["loss"] == pytest.approx(np.abs(predicted - y).mean(), rel=1e-12)
    assert measured["mean"] == pytest.approx(predicted.mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("task", "targets", "complaint"),
    [
        ("multi_label", np.full((4, 2), 3), "0 or 1 for each label"),
        ("multi_label", np.array([0, 1, 1, 0]), "0 or 1 for each label"),
        ("regression", np.array([1.0, np.nan, 2.0, 3.0]), "NaN or infinite"),
        ("next_token", np.full((4, 2), 0.5), "not integers"),
    ],
)
def test_targets_that_do_not_fit_the_task_are_refused(task, targets, complaint):
    with pytest.raises(ConfigError, match=complaint):
        as_arrays((np.zeros((4, 2), int), targets), "mine", F64, task_of(task))


@pytest.mark.parametrize("split", ["by_label", "dirichlet"])
def test_splits_by_class_are_refused_where_there_are_none(split):
    spec = {"name": split, "alpha": 1.0} if split == "dirichlet" else {"name": split}
    with pytest.raises(ConfigError, match="goes by classes"):
        data.split(spec, numbers(SAMPLES), CLIENTS, 0)
    assert isinstance(data.split({"name": "iid"}, numbers(SAMPLES), CLIENTS, 0), Split)
