"""The paper's files, which take seconds to read."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from byzdist.problem import data, optimum
from byzdist.problem.data import DATASETS
from byzdist.problem.tasks.classification import CLASSIFICATION
from tests.support.paths import data_file
from tests.support.problem import load_arrays


def test_the_real_files(tmp_path):
    spec = {"name": "libsvm", "path": data_file("a9a.gz"), "test_path": data_file("a9a.t.gz")}
    a9a = load_arrays(spec, tmp_path)
    assert a9a.features.shape == (32561, 123) and a9a.test_features.shape == (16281, 123) and a9a.classes == 2
    assert a9a.labels.sum() == 7841  # the positive ones
    assert set(np.unique(a9a.features)) == {0.0, 1.0}
    shape = DATASETS.check({"name": "mnist", "path": data_file("mnist")}, "data")
    assert shape.name == "mnist"


def test_a9a_against_scikit_learn(tmp_path):
    """Newton's method of another library, on the data and the regularizer of the paper's figure 1."""
    dataset = load_arrays({"name": "libsvm", "path": data_file("a9a.gz")}, tmp_path)
    parts = data.split({"name": "shared"}, dataset.labels, 20, 0)
    found = optimum.find_optimum(
        {"name": "logistic_regression", "l2": 0.01}, CLASSIFICATION, dataset, parts, range(15), tmp_path
    )
    # scikit-learn minimizes ‖w‖²/2 + C Σ loss; ours is mean loss + l2 ‖w‖².
    other = LogisticRegression(C=1 / (2 * 0.01 * 32561), fit_intercept=False, solver="newton-cholesky", tol=1e-10)
    other.fit(dataset.features, dataset.labels)
    weights = other.coef_[0]
    signs = 2 * dataset.labels - 1
    loss = np.logaddexp(0, -signs * (dataset.features @ weights)).mean() + 0.01 * weights @ weights
    assert abs(loss - found) <= 1e-15
