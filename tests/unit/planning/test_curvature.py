"""L and μ, against the eigenvalues of Hessians that are written out here."""

import numpy as np
import pytest
import torch

from byzdist.config.reading import parse
from byzdist.planning.curvature import curvature
from byzdist.runtime.experiment import Experiment, prepare
from tests.support.cases import BASE

FEATURES = np.random.default_rng(3).standard_normal((40, 5)) * np.array([1.0, 2.0, 0.5, 1.0, 3.0])
SHARED = {"name": "tests.unit.planning.test_curvature:numbers", "split": "shared"}


def numbers(*, rank: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A data set for regression, of which the first ``rank`` features are not zero; they are known to the tests."""
    features = FEATURES * (np.arange(5) < rank)
    return features, features.sum(1) + 1.0


def prepared(**sections: object) -> Experiment:
    return prepare(parse({**BASE, **sections}), torch.device("cpu"))


def regression(l2: float = 0.25, **data: object) -> Experiment:
    model = {"name": "linear", "bias": False, "l2": l2}
    return prepared(data={**SHARED, **data}, model=model, task="regression")


def test_of_a_quadratic_everything_is_known():
    found = curvature(regression())
    hessian = 2 * FEATURES.T @ FEATURES / len(FEATURES) + 2 * 0.25 * np.eye(5)
    smallest, *_, largest = np.linalg.eigvalsh(hessian)
    longest = (FEATURES**2).sum(1).max()
    assert (found.mu, found.of_mean) == pytest.approx((smallest, largest), rel=1e-9)
    assert found.smoothness == pytest.approx(2 * longest + 0.5, rel=1e-6)
    assert found.heterogeneity == 0.0 and "same everywhere" in found.source


def test_directions_in_which_a_quadratic_is_flat_do_not_count():
    found = curvature(regression(l2=0.0, rank=3))
    smallest, *_ = np.linalg.eigvalsh(2 * FEATURES[:, :3].T @ FEATURES[:, :3] / len(FEATURES))
    assert found.mu == pytest.approx(smallest, rel=1e-9)
    assert curvature(regression(l2=0.0, rank=0)) is None, "a loss that is flat everywhere"


def test_clients_that_hold_different_samples_differ():
    experiment = regression(split="iid")
    found, features = curvature(experiment), FEATURES
    targets = features.sum(1) + 1.0
    gradients = []
    for client in experiment.config.clients.honest_ids:
        held = experiment.split.indices(client)
        gradients.append(-2 * features[held].T @ targets[held] / len(held))  # at x^0 = 0
    zeta = np.mean([np.sum((g - np.mean(gradients, 0)) ** 2) for g in gradients])
    assert found.heterogeneity == pytest.approx(zeta, rel=1e-9)


@pytest.mark.parametrize("classes, share", [(2, 1 / 4), (3, 1 / 2)])
def test_of_logistic_regression_the_longest_sample_decides(classes, share):
    experiment = prepared(data={**BASE["data"], "classes": classes})
    found = curvature(experiment)
    (rows, _), _ = experiment.shared_data.first(90)
    features = rows.numpy()
    assert found.smoothness == pytest.approx((features**2).sum(1).max() * share + 0.02, rel=1e-12)
    assert found.of_mean == pytest.approx(np.linalg.eigvalsh(features.T @ features / 90)[-1] * share + 0.02, rel=1e-9)
    assert found.mu == 0.02


def test_of_a_network_it_is_measured_at_the_start():
    experiment = prepared(model={"name": "mlp", "hidden": [3]})
    found = curvature(experiment)
    (features, labels), _ = experiment.shared_data.first(90)

    def mean_loss(x: torch.Tensor) -> torch.Tensor:
        first, bias, second, last = x.split([36, 3, 6, 2])
        hidden = (features @ first.view(3, 12).T + bias).relu()
        return torch.nn.functional.cross_entropy(hidden @ second.view(2, 3).T + last, labels)

    hessian = torch.autograd.functional.hessian(mean_loss, experiment.oracle.initial())
    assert found.of_mean == pytest.approx(float(torch.linalg.eigvalsh(hessian).abs().max()), rel=0.02)
    assert found.smoothness > found.of_mean and found.mu is None and "an estimate" in found.source


def test_where_the_data_are_not_here_nothing_is_known():
    data = {"name": "tests.support.pieces:private", "where": "worker", "features": 4, "outputs": 2}
    assert curvature(prepared(data=data)) is None
