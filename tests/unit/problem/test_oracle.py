"""Gradients against automatic differentiation, finite differences and each other."""

import numpy as np
import pytest
import torch
from torch import nn

from byzdist.errors import ConfigError
from byzdist.problem import data, models
from byzdist.problem.data import Dataset, Split
from byzdist.problem.loss import Loss
from byzdist.problem.tasks.classification import CLASSIFICATION
from byzdist.problem.tasks.regression import regression
from byzdist.randomness import stream
from byzdist.rounds import Round
from tests.support.problem import ArrayOracle, oracle_of
from tests.support.standins import watched


def make_dataset(samples: int, shape: tuple[int, ...], classes: int) -> Dataset:
    generator = stream(1, "test data")
    features = generator.standard_normal((samples, *shape))
    return Dataset("test", features, generator.integers(classes, size=samples), None, None, classes)


def make_oracle(spec, shape=(7,), classes=3, samples=50, split="shared", clients=4, **options) -> ArrayOracle:
    dataset = make_dataset(samples, shape, classes)
    model = models.build(spec, shape, classes, seed=3)
    return oracle_of(model, dataset, data.split({"name": split}, dataset.labels, clients, 0), **options)


def point(oracle: ArrayOracle, number: int) -> torch.Tensor:
    vector = stream(5, "point", number).standard_normal(oracle.dimension)
    return torch.from_numpy(vector).to(oracle.loss.dtype) * 0.3


def reference(oracle: ArrayOracle, x: torch.Tensor, positions, flip=False) -> torch.Tensor:
    """The gradient by torch.func, from the module's definition alone."""
    model, data, l2 = oracle.loss.model, oracle.data, oracle.loss.l2
    names, parameters = zip(*model.named_parameters(), strict=True)
    labels = data.targets[positions]
    if flip:
        labels = int(data.targets.max()) - labels

    def loss(flat):
        pieces = flat.split([p.numel() for p in parameters])
        weights = {n: piece.view(p.shape) for n, p, piece in zip(names, parameters, pieces, strict=True)}
        logits = torch.func.functional_call(model, weights, (data.features[positions],))
        if logits.ndim == 1:
            signs = 2 * labels - 1
            return nn.functional.softplus(-signs * logits).mean() + l2 * flat.square().sum()
        chosen = logits.log_softmax(1)[torch.arange(len(labels)), labels]
        return -chosen.mean() + l2 * flat.square().sum()

    return torch.func.grad(loss)(x.clone())


SPECS = {
    "binary": ({"name": "logistic_regression", "l2": 0.01}, (7,), 2),
    "binary with bias": ({"name": "logistic_regression", "l2": 0.01, "bias": True}, (7,), 2),
    "multinomial": ({"name": "logistic_regression", "l2": 0.01}, (7,), 3),
    "multinomial with bias": ({"name": "logistic_regression", "bias": True}, (2, 3), 3),
    "mlp": ({"name": "mlp", "hidden": [5, 4], "l2": 0.02}, (7,), 3),
    "cnn": ({"name": "cnn", "channels": 2, "hidden": 3}, (16, 17), 3),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("batch", [None, [3], [0, 5, 5, 9, 2], "many"])
def test_gradient_and_difference_are_those_of_automatic_differentiation(name, batch):
    spec, shape, classes = SPECS[name]
    samples = 2500 if batch == "many" else 50  # more than fit the path for small batches
    oracle = make_oracle(spec, shape, classes, samples)
    positions = np.arange(samples)
    if batch is not None:
        positions = batch = stream(0, "batch").integers(samples, size=2000) if batch == "many" else np.array(batch)
    new, old = point(oracle, 0), point(oracle, 1)
    out = torch.full_like(new, torch.nan)  # what was in out must not matter
    oracle.gradient(new, 1, batch, out)
    at_new, at_old = reference(oracle, new, positions), reference(oracle, old, positions)
    torch.testing.assert_close(out, at_new, rtol=1e-11, atol=1e-13)
    out.fill_(torch.nan)
    oracle.difference(new, old, 1, batch, out)
    torch.testing.assert_close(out, at_new - at_old, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", SPECS)
def test_small_chunks_give_the_same_gradient(name):
    spec, shape, classes = SPECS[name]
    oracle = make_oracle(spec, shape, classes)
    x, whole, pieces = point(oracle, 0), torch.empty(oracle.dimension).double(), torch.empty(oracle.dimension).double()
    oracle.gradient(x, 0, None, whole)
    oracle.data.chunk = 7
    oracle.gradient(x, 0, None, pieces)
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["binary", "multinomial", "mlp"])
def test_batch_positions_count_within_the_clients_shard(name):
    spec, shape, classes = SPECS[name]
    oracle = make_oracle(spec, shape, classes, split="iid", clients=5)
    shard = oracle.data.split.indices(3)
    assert oracle.samples(3) == len(shard) == 10
    x, out = point(oracle, 0), torch.empty(oracle.dimension).double()
    oracle.gradient(x, 3, np.array([9, 0]), out)
    torch.testing.assert_close(out, reference(oracle, x, shard[[9, 0]]), rtol=1e-11, atol=1e-13)
    oracle.gradient(x, 3, None, out)
    torch.testing.assert_close(out, reference(oracle, x, shard), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["binary", "multinomial", "mlp"])
@pytest.mark.parametrize("batch", [None, np.array([1, 4, 6])])
def test_flipped_clients_see_mirrored_labels(name, batch):
    spec, shape, classes = SPECS[name]
    oracle = make_oracle(spec, shape, classes, flipped=[2])
    positions = np.arange(50) if batch is None else batch
    x, out = point(oracle, 0), torch.empty(oracle.dimension).double()
    for client, flip in ((1, False), (2, True)):
        oracle.gradient(x, client, batch, out)
        torch.testing.assert_close(out, reference(oracle, x, positions, flip), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["binary", "multinomial", "mlp"])
def test_vectors_may_lie_within_larger_buffers(name):
    """A receive frame holds x behind a header, a message holds the gradient: neither is copied nor overrun."""
    spec, shape, classes = SPECS[name]
    oracle = make_oracle(spec, shape, classes)
    d, x = oracle.dimension, point(oracle, 0)
    frame, message = torch.full((d + 5,), 7.0).double(), torch.full((d + 9,), 8.0).double()
    frame[3 : 3 + d] = x
    expected = torch.empty_like(x)
    batch = np.array([1, 2])
    oracle.gradient(x, 0, batch, expected)
    oracle.gradient(frame[3 : 3 + d], 0, batch, message[4 : 4 + d])
    assert torch.equal(message[4 : 4 + d], expected)
    assert message[:4].eq(8).all() and message[4 + d :].eq(8).all()
    assert torch.equal(frame[3 : 3 + d], x)
    torch.testing.assert_close(oracle.initial(), make_oracle(spec, shape, classes).initial(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", range(1, 16, 2))
def test_gradients_have_the_same_bits_wherever_the_models_lie(dtype, place):
    """With one output a layer is a product of a matrix and a vector, whose last digits depend on alignment in a library."""
    generator = stream(1, "regression")
    features, targets = generator.standard_normal((40, 10)), generator.standard_normal(40)
    split = data.split({"name": "shared"}, np.arange(40), 4, 0)
    dataset = Dataset("test", features, targets, None, None, 1)  # type: ignore[arg-type]
    oracle = oracle_of(nn.Linear(10, 1), dataset, split, dtype=dtype, task=regression())
    d, (x, y) = oracle.dimension, (point(oracle, number) for number in range(2))
    frame = torch.zeros(2 * d + place, dtype=dtype)
    frame[place : place + d], frame[place + d :] = x, y
    found = [torch.empty_like(x) for _ in range(2)]
    oracle.difference(x, y, 0, np.arange(5), found[0])
    oracle.difference(frame[place : place + d], frame[place + d :], 0, np.arange(5), found[1])
    assert found[0].equal(found[1])


@pytest.mark.parametrize("name", ["binary", "multinomial", "mlp"])
def test_a_message_may_be_reused_for_another_point(name):
    """The module's parameters follow the buffer, also when its content changes and when the point moves elsewhere."""
    spec, shape, classes = SPECS[name]
    oracle = make_oracle(spec, shape, classes)
    x, out = point(oracle, 0), torch.empty(oracle.dimension).double()
    for number in range(3):
        x.copy_(point(oracle, number))
        oracle.gradient(x, 0, None, out)
        torch.testing.assert_close(out, reference(oracle, x, np.arange(50)), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["binary", "multinomial", "mlp"])
def test_clients_with_the_same_samples_share_a_full_gradient_at_the_points_of_a_round(name):
    spec, shape, classes = SPECS[name]
    oracle = make_oracle(spec, shape, classes, flipped=[3])
    x, y, elsewhere = point(oracle, 0), point(oracle, 1), point(oracle, 2)
    out = torch.empty_like(x)
    with watched(oracle.data, "batches") as reads:
        for number in (2, 3):
            x.copy_(point(oracle, number))
            oracle.begin(Round(number, 0), x, y)
            for client in range(4):
                for where in (x, y):
                    oracle.gradient(where, client, None, out)
                    expected = reference(oracle, where, np.arange(50), flip=client == 3)
                    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-13)
    assert len(reads) == 2 * 2 * 2  # rounds, points, honest and flipped labels
    for _ in range(2):  # a point of a client's own may move within a round
        elsewhere.mul_(0.5)
        oracle.gradient(elsewhere, 0, None, out)
        torch.testing.assert_close(out, reference(oracle, elsewhere, np.arange(50)), rtol=1e-11, atol=1e-13)


def test_the_data_set_is_not_copied():
    dataset = make_dataset(20, (7,), 2)
    oracle = oracle_of(models.build({"name": "mlp"}, (7,), 2, 0), dataset, Split(20, 2, None))
    assert oracle.data.features.data_ptr() == dataset.features.ctypes.data


def test_float32_gradients_are_float32():
    oracle = make_oracle(*SPECS["multinomial"], dtype=torch.float32)
    x, out = oracle.initial(), torch.empty(oracle.dimension)
    oracle.gradient(x, 0, np.array([0, 1]), out)
    double = make_oracle(*SPECS["multinomial"])
    expected = torch.empty(oracle.dimension).double()
    double.gradient(x.double(), 0, np.array([0, 1]), expected)
    torch.testing.assert_close(out, expected.float(), rtol=1e-5, atol=1e-6)


def test_closed_forms_do_not_overflow():
    oracle = make_oracle(*SPECS["binary"])
    x, out = torch.full((oracle.dimension,), 1e6).double(), torch.empty(oracle.dimension).double()
    with np.errstate(all="raise", under="ignore"):
        oracle.gradient(x, 0, np.array([0, 1, 2]), out)
    assert out.isfinite().all()


def test_a_users_loss_replaces_the_cross_entropy():
    class LeastSquares(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(7))

        def forward(self, features):
            return features @ self.w

        def loss(self, logits, labels):
            return (logits - labels).square().mean()

    dataset = make_dataset(20, (7,), 2)
    oracle = oracle_of(LeastSquares(), dataset, Split(20, 2, None))
    x, out = point(oracle, 0), torch.empty(7).double()
    oracle.gradient(x, 0, None, out)
    residuals = dataset.features @ x.numpy() - dataset.labels
    np.testing.assert_allclose(out.numpy(), 2 * dataset.features.T @ residuals / 20, rtol=1e-12)


@pytest.mark.parametrize(
    ("module", "word"),
    [
        (nn.Sequential(nn.Linear(7, 3), nn.BatchNorm1d(3)), "buffer"),
        (nn.Sequential(nn.Flatten(), nn.EmbeddingBag(7, 3, sparse=True)), "sparse"),
        (nn.ReLU(), "no parameters"),
    ],
)
def test_modules_whose_gradient_is_no_function_of_x_are_refused(module, word):
    with pytest.raises(ConfigError, match=word):
        Loss(module, CLASSIFICATION)
