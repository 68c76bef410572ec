"""Models: a seed gives the same one everywhere, of the promised shape, and changes nothing else."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from byzdist.errors import ConfigError
from byzdist.problem import models
from byzdist.problem.tasks.classification import cross_entropy

CASES: list[tuple[dict[str, Any], tuple[int, ...], int, int]] = [
    ({"name": "logistic_regression"}, (8, 8), 2, 64),
    ({"name": "logistic_regression", "bias": True}, (8, 8), 2, 65),
    ({"name": "logistic_regression", "bias": True}, (5,), 3, 18),
    ({"name": "mlp", "hidden": [7, 6]}, (4, 5), 3, 21 * 7 + 8 * 6 + 7 * 3),
    ({"name": "cnn", "channels": 3, "hidden": 5}, (28, 28), 10, 26 * 3 + 76 * 6 + (6 * 16 + 1) * 5 + 60),
    ({"name": "cnn"}, (3, 32, 32), 10, 76 * 16 + 401 * 32 + (32 * 25 + 1) * 128 + 1290),
    ({"name": "resnet18"}, (28, 28), 10, 11_172_810),
    ({"name": "resnet18"}, (3, 32, 32), 10, 11_173_962),
]


@pytest.mark.parametrize(("spec", "shape", "classes", "parameters"), CASES)
def test_shapes_and_sizes(spec, shape, classes, parameters):
    model = models.build(spec, shape, classes, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    logits = model(torch.zeros(2, *shape))
    assert logits.shape == ((2,) if spec["name"] == "logistic_regression" and classes == 2 else (2, classes))
    assert not list(model.buffers())  # no state beside x


@pytest.mark.parametrize("spec", [{"name": "mlp", "hidden": [3]}, {"name": "cnn"}])
def test_the_seed_alone_decides_where_a_model_starts(spec):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = models.build(spec, (28, 28), 10, seed=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)  # torch's own generator is left as it was
    torch.manual_seed(6)
    again, other = (models.build(spec, (28, 28), 10, seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


def test_logistic_regression_starts_at_zero():
    model = models.build({"name": "logistic_regression", "bias": True}, (4,), 3, seed=1)
    assert all(not parameter.any() for parameter in model.parameters())


def test_the_loss_of_two_classes_is_that_of_signs():
    scores, labels = torch.tensor([-800.0, -1.0, 0.3, 40.0]).double(), torch.tensor([0, 1, 0, 1])
    signs = 2 * labels.numpy() - 1
    expected = np.logaddexp(0, -signs * scores.numpy()).mean()  # log(1 + exp(-y s))
    assert float(cross_entropy(scores, labels)) == pytest.approx(expected, rel=1e-14)
    both = torch.stack([torch.zeros_like(scores), scores], 1)
    assert float(cross_entropy(both, labels)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_closed_form_hessian_is_that_of_automatic_differentiation(classes, bias):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 3, generator=generator).double()
    labels = torch.arange(9) % classes
    model: Any = models.build({"name": "logistic_regression", "bias": bias}, (3,), classes, seed=0).double()
    shapes = [parameter.shape for parameter in model.parameters()]
    names = [name for name, _ in model.named_parameters()]
    x = torch.randn(sum(shape.numel() for shape in shapes), generator=generator).double()

    def loss(flat):
        pieces = flat.split([shape.numel() for shape in shapes])
        weights = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        return 9 * cross_entropy(torch.func.functional_call(model, weights, (features,)), labels)

    torch.testing.assert_close(model.hessian(x, features), torch.func.hessian(loss)(x), rtol=1e-12, atol=1e-14)


def test_a_users_own_model_is_called_like_ours(tmp_path, monkeypatch):
    code = "from torch import nn\n\ndef make(shape, classes, *, width: int):\n    return nn.Linear(width, classes)\n"
    (tmp_path / "my_model_of_a_test.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    model = models.build({"name": "my_model_of_a_test:make", "width": 6}, (6,), 3, seed=0)
    assert isinstance(model, nn.Linear) and model.weight.shape == (3, 6)
    with pytest.raises(ConfigError, match=r"model\.width"):
        models.build({"name": "my_model_of_a_test:make"}, (6,), 3, seed=0)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ({"name": "cnn"}, (64,), r"model\.name: 'cnn' wants images"),
        ({"name": "cnn"}, (8, 8), r"model\.name: 'cnn' wants images"),
        ({"name": "resnet18"}, (64,), r"model\.name: 'resnet18' wants images"),
        ({"name": "mlp", "hidden": []}, (8,), r"model\.hidden"),
        ({"name": "mlp", "hidden": [0]}, (8,), r"model\.hidden"),
        ({"name": "logistic_regression", "l2": -1.0}, (8,), r"model\.l2"),
        ({"name": "logistic_regresion"}, (8,), "Did you mean 'logistic_regression'"),
    ],
)
def test_wrong_models_name_the_key(spec, shape, message):
    with pytest.raises(ConfigError, match=message):
        models.build(spec, shape, 10, seed=0)
