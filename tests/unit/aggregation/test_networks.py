"""Networks are checked on every input of zeros and ones: by the 0-1 principle, this proves them for every input."""

import itertools

import numpy as np
import pytest

from byzdist.aggregation.kernels.networks import HIGH, LOW, selection_network, sorting_network


def every_input(n):
    if n <= 16:
        return np.array(list(itertools.product([0, 1], repeat=n)), dtype=np.int8).T.copy()
    return (np.random.default_rng(n).random((n, 20_000)) < np.random.default_rng(1).random(20_000)).astype(np.int8)


@pytest.mark.parametrize("n", [*range(1, 17), 20, 33, 50, 64])
def test_sorting_network_sorts(n):
    X = every_input(n)
    for low, high in sorting_network(n):
        X[low], X[high] = np.minimum(X[low], X[high]), np.maximum(X[low], X[high])
    assert (np.diff(X, axis=0) >= 0).all()


def run(labels, X):
    X = X.copy()
    for low, high, keep_low, keep_high in selection_network(labels):
        a, b = X[low].copy(), X[high].copy()
        X[low] = np.minimum(a, b) if keep_low else 99  # what is not kept must never matter
        X[high] = np.maximum(a, b) if keep_high else 99
    return X


@pytest.mark.parametrize("n", [*range(2, 14), 20, 64])
def test_selection_network_yields_ranks_and_sets(n):
    X = every_input(n)
    ordered = np.sort(X, axis=0)
    for f in range((n - 1) // 2 + 1):
        trimmed = run((LOW,) * f + (0,) * (n - 2 * f) + (HIGH,) * f, X)[f : n - f]
        np.testing.assert_array_equal(np.sort(trimmed, axis=0), ordered[f : n - f])
        ranks = run(tuple([*range(f), *[n] * (n - 2 * f), *range(n - f, n)]), X)
        np.testing.assert_array_equal(ranks[[*range(f), *range(n - f, n)]], ordered[[*range(f), *range(n - f, n)]])


def test_selecting_takes_fewer_operations_than_sorting():
    median = selection_network((LOW,) * 9 + (0, 0) + (HIGH,) * 9)
    assert sum(e.keep_low + e.keep_high for e in median) <= 134 < 2 * len(sorting_network(20))
    assert selection_network((0,) * 20) == ()
