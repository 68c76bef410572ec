"""Each rule and step against a plain textbook implementation, written here from its definition in float64."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from byzdist.aggregation import PRE, RULES, Aggregator, aggregate
from byzdist.errors import ConfigError
from byzdist.registry import Named, Spec


def krum_order(X, f, margin=2):
    scores = []
    for x in X:
        squares = sorted(((X - x) ** 2).sum(1))
        scores.append(sum(squares[1 : 1 + max(1, len(X) - f - margin)]))
    return np.argsort(scores, kind="stable")


def textbook_median(X, f):
    return np.median(X, axis=0)


def textbook_trimmed_mean(X, f):
    return np.sort(X, axis=0)[f : len(X) - f].mean(0)


def closest_to_median(X, count):
    out = np.empty(X.shape[1])
    for j, column in enumerate(X.T):
        order = np.argsort(np.abs(column - np.median(column)), kind="stable")
        out[j] = column[order[:count]].mean()
    return out


def textbook_bulyan(X, f):
    rest, chosen = list(range(len(X))), []
    while len(chosen) < len(X) - 2 * f:
        best = rest[krum_order(X[rest], f)[0]]
        rest.remove(best)
        chosen.append(best)
    return closest_to_median(X[chosen], len(chosen) - 2 * f)


def textbook_geometric_median(X, f):
    z = X.mean(0)
    for _ in range(3000):
        w = 1 / np.maximum(np.linalg.norm(X - z, axis=1), 1e-12)
        z = w @ X / w.sum()
    return z


def textbook_centered_clip(X, f, tau=3.0, iterations=4):
    distances = np.linalg.norm(X[:, None] - X[None], axis=2)
    z = X[np.median(distances, axis=1).argmin()]
    for _ in range(iterations):
        away = X - z
        z = z + (away * np.minimum(1, tau / np.maximum(np.linalg.norm(away, axis=1), 1e-300))[:, None]).mean(0)
    return z


def subsets(X, f):
    return [X[list(s)] for s in itertools.combinations(range(len(X)), len(X) - f)]


def textbook_mda(X, f):
    def diameter(S):
        return max((np.linalg.norm(a - b) for a, b in itertools.combinations(S, 2)), default=0.0)

    return min(subsets(X, f), key=diameter).mean(0)


def textbook_smea(X, f):
    return min(subsets(X, f), key=lambda S: np.linalg.norm(S - S.mean(0), 2)).mean(0)


def textbook_caf(X, f):
    c, best, result = np.ones(len(X)), math.inf, X.mean(0)
    while c.sum() > len(X) - 2 * f + 1e-9:
        mu = c @ X / c.sum()
        values, vectors = np.linalg.eigh((c[:, None] * (X - mu)).T @ (X - mu) / c.sum())
        if values[-1] < best:
            best, result = values[-1], mu
        tau = ((X - mu) @ vectors[:, -1]) ** 2 * (c > 0)
        c = c * (1 - tau / tau.max())
    return result


def near(X, x, f):
    return X[np.argsort(np.linalg.norm(X - x, axis=1), kind="stable")[: len(X) - f]].mean(0)


def medoid(X):
    return X[np.median(((X[:, None] - X[None]) ** 2).sum(2), axis=1).argmin()]


TEXTBOOK: dict[str, tuple[Named, Any]] = {
    "mean": ("mean", lambda X, f: X.mean(0)),
    "coordinate_median": ("coordinate_median", textbook_median),
    "trimmed_mean": ("trimmed_mean", textbook_trimmed_mean),
    "meamed": ("meamed", lambda X, f: closest_to_median(X, len(X) - f)),
    "bulyan": ("bulyan", textbook_bulyan),
    "krum": ("krum", lambda X, f: X[krum_order(X, f)[0]]),
    "krum, margin 1": ({"name": "krum", "margin": 1}, lambda X, f: X[krum_order(X, f, 1)[0]]),
    "multi_krum": ("multi_krum", lambda X, f: X[krum_order(X, f)[: len(X) - f]].mean(0)),
    "multi_krum, 3": ({"name": "multi_krum", "selected": 3}, lambda X, f: X[krum_order(X, f)[:3]].mean(0)),
    "geometric_median": ({"name": "geometric_median", "tolerance": 1e-9}, textbook_geometric_median),
    "centered_clip": ({"name": "centered_clip", "tau": 3.0, "iterations": 4}, textbook_centered_clip),
    "monna": ("monna", lambda X, f: near(X, medoid(X), f)),
    "monna, a row of the caller's": ({"name": "monna", "pivot": 2}, lambda X, f: near(X, X[2], f)),
    "cge": ("cge", lambda X, f: near(X, 0.0, f)),
    "mda": ("mda", textbook_mda),
    "smea": ("smea", textbook_smea),
    "caf": ("caf", textbook_caf),
    "ctma, span": ({"name": "ctma", "rule": "krum"}, lambda X, f: near(X, X[krum_order(X, f)[0]], f)),
    "ctma, columns": ({"name": "ctma", "rule": "trimmed_mean"}, lambda X, f: near(X, textbook_trimmed_mean(X, f), f)),
}


def test_every_rule_has_a_textbook():
    assert {Spec.of(named).name for named, _ in TEXTBOOK.values()} == set(RULES)


@pytest.mark.parametrize("case", TEXTBOOK)
@pytest.mark.parametrize(("n", "f", "d"), [(4, 0, 5), (7, 1, 33), (11, 2, 150), (15, 3, 40)])
def test_a_rule_equals_its_definition(case, n, f, d):
    named, definition = TEXTBOOK[case]
    X = np.random.default_rng(n).normal(size=(n, d)) + 0.5
    X[:f] *= 4
    expected = definition(X, f)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 2e-5)):
        got = aggregate(torch.tensor(X, dtype=dtype), named, f=f)
        assert got.dtype == dtype and got.shape == (d,)
        np.testing.assert_allclose(got.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rule", ["coordinate_median", "trimmed_mean", "meamed", "bulyan"])
@pytest.mark.parametrize("n", [63, 64, 65, 66, 101])
def test_column_rules_past_the_largest_network(rule, n):
    X = np.random.default_rng(n).normal(size=(n, 9))
    f = n // 5
    got = aggregate(torch.from_numpy(X), rule, f=f)
    np.testing.assert_allclose(got, TEXTBOOK[rule][1](X, f), rtol=1e-12, atol=1e-12)


def clipped(X, thresholds):
    return X * np.minimum(1, thresholds / np.linalg.norm(X, axis=1))[:, None]


def textbook_arc(X, f):
    norms = np.sort(np.linalg.norm(X, axis=1))
    k = math.floor(2 * f / len(X) * (len(X) - f))
    return clipped(X, norms[len(X) - k - 1])


STEPS: dict[str, tuple[Named, Any]] = {
    "clip": ({"name": "clip", "threshold": 3.0}, lambda X, f: clipped(X, 3.0)),
    "arc": ("arc", textbook_arc),
    "nnm": ("nnm", lambda X, f: np.array([near(X, x, f) for x in X])),
}


@pytest.mark.parametrize("order", [p for r in (1, 2, 3) for p in itertools.permutations(STEPS, r)], ids="-".join)
@pytest.mark.parametrize("rule", ["mean", "coordinate_median", "krum", "geometric_median", "monna", "caf"])
def test_any_chain_of_steps_equals_doing_them_one_by_one(order, rule):
    X = np.random.default_rng(3).normal(size=(11, 29)) * np.linspace(0.2, 2, 11)[:, None] + 0.3
    f, Y = 2, X
    for name in order:
        Y = STEPS[name][1](Y, f)
    got = aggregate(torch.from_numpy(X), rule, pre=[STEPS[name][0] for name in order], f=f)
    np.testing.assert_allclose(got, aggregate(torch.from_numpy(Y), rule, f=f), rtol=1e-6, atol=1e-7)


def test_every_step_is_tested():
    assert set(PRE) == {*STEPS, "bucketing"}


@pytest.mark.parametrize("n", [4, 7, 300])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_bucketing_averages_a_permutation(n, size):
    X = np.random.default_rng(0).normal(size=(n, 6))
    order = np.random.default_rng(5).permutation(n)
    groups = np.stack([X[order[i : i + size]].mean(0) for i in range(0, n, size)]) if size > 1 else X
    pre = [{"name": "bucketing", "size": size}]
    got = aggregate(torch.from_numpy(X), "coordinate_median", pre=pre, generator=np.random.default_rng(5))
    np.testing.assert_allclose(got, np.median(groups, axis=0), rtol=1e-12, atol=1e-14)
    seeded = [aggregate(torch.from_numpy(X), "krum", pre=pre, generator=torch.Generator().manual_seed(1)) for _ in "ab"]
    assert torch.equal(*seeded)


def test_the_pivot_of_monna_is_a_row_of_the_input_whatever_was_dropped():
    V = torch.tensor([[math.nan], [1.0], [2.0], [3.0], [100.0]])
    pivot = {"name": "monna", "pivot": 3}
    assert aggregate(V, pivot, f=2, nonfinite="drop").item() == 2.0
    for named, rows in (({"name": "monna", "pivot": 0}, V), ({"name": "monna", "pivot": 5}, V), (pivot, V[1:4])):
        with pytest.raises(ConfigError, match=rf"monna.pivot: row {named['pivot']} is not one of the \d vectors"):
            aggregate(rows, named, f=1, nonfinite="drop")


def test_multi_krum_selects_no_more_than_can_be_honest():
    V = torch.tensor([[1.0], [2.0], [3.0], [4.0], [1e6]])
    for selected in (4, 5, 100):
        assert aggregate(V, {"name": "multi_krum", "selected": selected}, f=1).item() == 2.5


@pytest.mark.parametrize("rule", ["krum", "multi_krum"])
def test_krum_leaves_room_for_its_margin(rule):
    assert [Aggregator({"name": rule, "margin": margin}).max_f(9) for margin in (1, 2, 5, 20)] == [3, 3, 1, 0]
    assert Aggregator({"name": rule, "margin": 1}).max_f(10) == 4 and Aggregator(rule).max_f(10) == 3


def test_geometric_median_of_a_triangle_is_its_fermat_point():
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
    got = aggregate(corners, {"name": "geometric_median", "tolerance": 1e-12})
    np.testing.assert_allclose(got, [0.5, math.sqrt(3) / 6], atol=1e-9)


def rows_some_of_which_are_close_together():
    """Yield sets of rows for which steps grow short long before the end."""
    generator = np.random.default_rng(0)
    for i in range(56):
        n, d = int(generator.integers(3, 14)), int(generator.integers(1, 5))
        close, X = int(generator.integers(0, n)), generator.normal(size=(n, d))
        X[:close] = X[0] + 10.0 ** generator.uniform(-6, -1) * generator.normal(size=(close, d))
        if i % 3 == 0:
            X *= 10.0 ** generator.uniform(-3, 3, size=(n, 1))
        if i in (20, 22, 51, 55):
            yield X


@pytest.mark.parametrize("X", rows_some_of_which_are_close_together(), ids=len)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_the_tolerance_of_the_geometric_median_bounds_the_sum_of_distances(X, tolerance):
    def total(z):
        return np.linalg.norm(X - z, axis=1).sum()

    z = X.mean(0)
    for _ in range(3000):
        w = 1 / np.maximum(np.linalg.norm(X - z, axis=1), 1e-13)
        z = w @ X / w.sum()
    least, scale = min(total(z), *map(total, X)), np.median(np.linalg.norm(X[:, None] - X, axis=2), axis=1).min()
    got = aggregate(
        torch.from_numpy(X), {"name": "geometric_median", "tolerance": tolerance, "smoothing": 1e-6}
    ).numpy()
    assert total(got) <= (1 + tolerance) * least + len(X) * 1e-6 * scale / 2 + 1e-12 * least


def test_geometric_median_on_a_vector_where_most_agree():
    V = torch.tensor([[1.0, 2.0]] * 5 + [[9.0, 9.0], [-7.0, 3.0]])
    assert torch.equal(aggregate(V, "geometric_median"), V[0])


def test_a_radius_large_enough_makes_centered_clip_the_mean():
    V = torch.randn(9, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for start in ("medoid", "zero"):
        got = aggregate(V, {"name": "centered_clip", "tau": 1e3, "iterations": 1, "start": start})
        torch.testing.assert_close(got, V.mean(0))


def own_rule(matrix, f, *, power: int = 1):
    return matrix.sum(0) * power


def test_a_function_of_the_users_own_is_a_rule(monkeypatch):
    V = torch.ones(3, 4)
    name = f"{__name__}:own_rule"
    assert aggregate(V, {"name": name, "power": 2}).tolist() == [6.0] * 4
    assert Aggregator(name, ["arc"])(V, f=1).vector.tolist() == [3.0] * 4
