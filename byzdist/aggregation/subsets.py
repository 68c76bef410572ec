"""Span rules that search for the n - f vectors that agree best, or reduce the weight of the vectors that spread most."""

import math
from collections.abc import Iterator
from itertools import combinations, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dsyevr

from byzdist.aggregation.points import Points
from byzdist.aggregation.rules import Facts, minority, span_rule, uniform
from byzdist.aggregation.small import one_thread, product
from byzdist.aggregation.span import TINY, nearest
from byzdist.aggregation.types import Floats

MAX_SUBSETS = 200_000  # subsets that smea may have to examine: a second or two


def _cover(edges: NDArray[np.bool_], budget: int) -> list[int] | None:
    """Return at most ``budget`` vertices that touch every edge of a graph, or None if that is impossible.

    Vertices with more edges than the budget must be taken. If there are none, try the vertex with the most edges, then all its
    neighbours instead. The time is exponential only in the budget.
    """
    degree = edges.sum(axis=1)
    top = int(degree.argmax())
    if degree[top] == 0:
        return []
    branches = [np.flatnonzero(degree > budget)]
    if len(branches[0]) > budget or degree.sum() > 2 * np.sort(degree)[-budget:].sum():
        return None
    if not len(branches[0]):
        branches = [np.array([top]), np.flatnonzero(edges[top])]
    for taken in branches:
        rest = edges.copy()
        rest[taken] = False
        rest[:, taken] = False
        found = _cover(rest, budget - len(taken))
        if found is not None:
            return [*taken.tolist(), *found]
    return None


@span_rule(
    "mda",
    Facts(
        max_f=minority,
        breakdown="f/n < 1/2, for the declared f",
        robustness="at most 2f/(n-f) honest diameters from the honest mean [ours: some honest vector is kept, and all "
        "others that are kept or honest are within a diameter of it]",
        cost="O(n^2 d) for the inner products; the search is exponential in f at worst",
        use="Few hostile clients among few: the mean of the set that agrees best, found exactly.",
        formula=r"z = \frac{1}{n-f} \sum_{i \in S} v_i, \quad S = \arg\min_{|S| = "
        r"n-f} \max_{i,l \in S} \lVert v_i - v_l \rVert",
    ),
    aliases=["minimum_diameter_averaging"],
)
def mda(points: Points, f: int) -> Floats:
    """Average the n - f vectors with the smallest diameter (the largest distance between two of them).

    The search is exact: a diameter t is possible if some f vectors touch all pairs further apart than t (a vertex cover), and
    bisection finds the smallest such t. Lower bound: each of the n - f vectors has the others within t. Upper bound: the
    diameter of the n - f vectors nearest to one vector. El Mhamdi, Guerraoui, Guirguis, Rouault, "SGD: Decentralized
    Byzantine Resilience", 2019.
    """
    n, squared = points.size, points.squared_distances()
    candidates = np.unique(squared)
    radius = np.sort(squared, axis=1)[:, n - f - 1]
    around = nearest(squared[radius.argmin()], n - f)
    left_out = np.setdiff1d(np.arange(n), around).tolist()
    bounds = [np.sort(radius)[n - f - 1], squared[np.ix_(around, around)].max()]
    low, high = np.searchsorted(candidates, bounds).tolist()
    while low < high:
        mid = (low + high) // 2
        cover = _cover(squared > candidates[mid], f)
        if cover is None:
            low = mid + 1
        else:
            high, left_out = mid, cover
    kept = [i for i in range(n) if i not in left_out]
    spread = squared[np.ix_(kept, kept)].sum(axis=1)
    return uniform(n, np.array(kept)[np.argsort(spread, kind="stable")[: n - f]])


def _chunks(n: int, k: int, size: int) -> Iterator[NDArray[np.intp]]:
    subsets = combinations(range(n), k)
    while chunk := list(islice(subsets, size)):
        yield np.array(chunk)


def _searchable(n: int, **_: Any) -> int:
    return max(f for f in range(minority(n) + 1) if math.comb(n, f) <= MAX_SUBSETS)


@span_rule(
    "smea",
    Facts(
        max_f=_searchable,
        breakdown=f"f/n < 1/2, for the declared f; also C(n, f) <= {MAX_SUBSETS:,}",
        robustness="(f, kappa): kappa = 4f/(n-f) (1 + f/(n-2f))^2 against the top eigenvalue [Allouah et al. 2023b]",
        cost="O(n^2 d) for the inner products, C(n, f) eigenvalue problems of n - f rows",
        use="Small cohorts, where accuracy counts more than time: its error grows with "
        "the honest spread in its largest direction, not with the whole of it.",
        formula=r"z = \frac{1}{n-f} \sum_{i \in S} v_i, \quad S = \arg\min_{|S| "
        r"= n-f} \lambda_{\max}(\operatorname{Cov}(S))",
        kappa=lambda n, f, **_: 4 * f / (n - f) * (1 + f / (n - 2 * f)) ** 2,
    ),
)
def smea(points: Points, f: int) -> Floats:
    """Average the n - f vectors whose covariance has the smallest largest eigenvalue.

    It computes the eigenvalue for every subset, exactly, from the centred inner products. Allouah, Guerraoui, Gupta, Pinot,
    Stephan, "On the Privacy-Robustness-Utility Trilemma in Distributed Learning", ICML 2023.
    """
    n, gram = points.size, points.gram[:-1, :-1]
    best, chosen = math.inf, np.arange(n)
    affordable = n * points.vectors.d // (160 * (n - f) ** 2)  # two chunks of this many take 1/40 of a float32 V
    for subsets in _chunks(n, n - f, min(4096, max(64, affordable))):
        inner = gram[subsets[:, :, None], subsets[:, None, :]]
        inner -= inner.mean(axis=1, keepdims=True)
        inner -= inner.mean(axis=2, keepdims=True)
        with one_thread():
            largest = np.linalg.eigvalsh(inner)[:, -1]
        first = int(largest.argmin())
        if largest[first] < best:
            best, chosen = largest[first], subsets[first]
    return uniform(n, chosen)


@span_rule(
    "caf",
    Facts(
        max_f=minority,
        breakdown="f/n < 1/2, for the declared f",
        robustness="(f, kappa) against the largest eigenvalue of the covariance [Allouah et al. 2025]",
        cost="O(n^2 d) for the inner products, at most 2f eigenvalue problems of n rows",
        use="As smea, for larger cohorts: a few eigenvalue problems in place of all subsets.",
        formula=r"c_i \leftarrow c_i \left(1 - \frac{\tau_i}{\max_l \tau_l}\right), \quad \tau_i = \langle v_i "
        r"- \mu_c, u \rangle^2, \quad z = \mu_c \text{ with the least } \lambda_{\max}",
    ),
)
def caf(points: Points, f: int) -> Floats:
    """Reduce each vector's weight by its part in the direction of largest variance; return the mean with the least such variance.

    Weights c start at one. While sum c > n - 2f: mu = weighted mean; (lambda, v) = top eigenpair of the weighted
    covariance; tau_i = ((x_i - mu) v)^2; c_i <- c_i (1 - tau_i / max tau). The result is the mu of the smallest lambda.
    Allouah, Guerraoui, Stephan, "Towards Trustworthy Federated Learning with Untrusted Participants", ICML 2025.
    """
    n, gram = points.size, points.gram[:-1, :-1]
    weights = np.ones(n)
    best, result = math.inf, weights / n
    while weights.sum() > max(n - 2 * f, 0) + 1e-9:
        share = weights / weights.sum()
        inner = product(gram, share)
        centred = gram - inner[:, None] - inner + product(share[None], inner)
        root = np.sqrt(share)
        spread = root[:, None] * centred * root
        with one_thread():
            (largest, *_), vectors, *_, info = dsyevr(spread, range="I", il=n, iu=n)
        assert info == 0, "every symmetric matrix of finite numbers has eigenvalues"
        if largest < best:
            best, result = float(largest), share
        along = np.abs(product(centred, root * vectors[:, 0])) * (weights > 0)
        tau = (along / max(along.max(), TINY)) ** 2  # only the ratio to the largest counts, and squares may overflow
        if along.max() <= 0.0 or largest <= 0.0:  # all vectors with a weight are equal
            break
        weights = weights * (1.0 - tau)
    return result
