"""Span rules: the result is a weighted sum of the vectors, and the weights follow from their inner products alone."""

import math
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from byzdist.aggregation.points import Points
from byzdist.aggregation.rules import RULES, Facts, minority, no_byzantine, span_rule, uniform, wrapper_rule
from byzdist.aggregation.small import product
from byzdist.aggregation.types import Floats
from byzdist.errors import ConfigError
from byzdist.registry import RunFacts, checks_run

TINY = float(np.finfo(np.float64).tiny)
LARGEST = float(np.finfo(np.float64).max)


def nearest(distances: Floats, count: int) -> NDArray[np.intp]:
    """Return, along the last axis, the indices of the ``count`` smallest values, the first ones in a tie."""
    return np.argsort(distances, axis=-1, kind="stable")[..., :count]


def median(values: Floats) -> Floats:
    """Return the median along the last axis, as numpy.median does, but ten times as fast for a few values."""
    ordered, n = np.sort(values, axis=-1), values.shape[-1]
    middle: Floats = (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2
    return middle


def clip_factors(norms: Floats, threshold: float) -> Floats:
    """Return min(1, threshold / norm) for each norm; 1 for a norm of zero."""
    threshold = min(threshold, LARGEST)
    factors: Floats = np.minimum(1.0, threshold / np.maximum(norms, max(threshold, TINY)))
    return factors


def krum_scores(squared: Floats, f: int, margin: int) -> Floats:
    """Return for each vector the sum of its n - f - margin (at least one) smallest squared distances to others."""
    n = len(squared)
    others = max(1, n - f - margin)
    scores: Floats = np.sort(squared, axis=1)[:, 1 : others + 1].sum(axis=1)
    return scores


@span_rule(
    "mean",
    Facts(
        max_f=lambda n, **_: max(0, n - 1),
        max_byzantine=no_byzantine,
        breakdown="0: one hostile vector decides",
        robustness="none",
        cost="none",
        use="To compare with, on trusted clients only: nothing is more accurate there.",
        kappa=lambda n, f, **_: math.inf if f else 0.0,
        formula=r"z = \frac{1}{n} \sum_{i=1}^{n} v_i",
    ),
    products=False,
    aliases=["average", "avg", "fedavg"],
)
def mean(points: Points, f: int) -> Floats:
    """Average all vectors: no robustness, the baseline. f is not used."""
    return np.full(points.size, 1.0 / points.size)


def _krum_max_f(n: int, margin: int = 2, **_: Any) -> int:
    return max(0, (n - margin - 1) // 2)


def _krum_kappa(n: int, f: int, margin: int = 2, **_: Any) -> float:
    return 6 * (n - f) / (n - 2 * f - margin + 1)


@span_rule(
    "krum",
    Facts(
        max_f=_krum_max_f,
        breakdown="n > 2f + margin (2 by default)",
        robustness="(f, kappa): kappa = 6 (n-f)/(n-2f-margin+1) [Allouah et al. 2023, for margin 1]; (delta, c) after "
        "bucketing [Karimireddy et al. 2022]",
        use="If the result must be a vector that a client really sent. It uses a single vector "
        "and so keeps all of its noise; multi_krum averages that away.",
        formula=r"z = v_j, \quad j = \arg\min_i \sum_{l \in N_i} \lVert v_i - v_l \rVert^2, "
        r"\quad |N_i| = n - f - \mathrm{margin} \text{ nearest of } v_i",
        kappa=_krum_kappa,
    ),
)
def krum(points: Points, f: int, *, margin: Annotated[int, Ge(1)] = 2) -> Floats:
    """Take the vector with the smallest sum of squared distances to its n - f - margin nearest others.

    Blanchard et al., "Machine Learning with Adversaries", NeurIPS 2017; with margin 1, Allouah et al., AISTATS 2023.
    """
    return uniform(points.size, [int(krum_scores(points.squared_distances(), f, margin).argmin())])


def _selects_some(run: RunFacts, key: str, *, selected: int | None, **_: Any) -> None:
    cohort = min(run.vectors, key=lambda cohort: run.vectors[cohort])
    if (selected or 0) > run.vectors[cohort]:
        raise ConfigError(
            f"{key}.selected: {selected} is more than the {run.vectors[cohort]} vectors of a cohort "
            f"(method.{cohort}: {run.cohorts[cohort]}); all of them would be averaged."
        )


@span_rule(
    "multi_krum",
    Facts(
        max_f=_krum_max_f,
        breakdown="n > 2f + margin (2 by default)",
        robustness="(f, kappa) as krum [ours: the mean score of the selected vectors is at most that of the honest ones]",
        use="As krum, if the gradients are noisy: the mean of several vectors has less variance than one.",
        formula=r"z = \frac{1}{|S|} \sum_{i \in S} v_i, \quad S = \text{the vectors with the smallest scores of Krum}",
        kappa=_krum_kappa,
    ),
)
@checks_run(_selects_some)
def multi_krum(
    points: Points, f: int, *, margin: Annotated[int, Ge(1)] = 2, selected: Annotated[int, Ge(1)] | None = None
) -> Floats:
    """Average the ``selected`` (by default and at most n - f) vectors with the smallest Krum scores.

    Blanchard et al., NeurIPS 2017.
    """
    limit = points.size - f
    chosen = nearest(krum_scores(points.squared_distances(), f, margin), min(selected or limit, limit))
    return uniform(points.size, chosen)


@span_rule(
    "geometric_median",
    Facts(
        max_f=minority,
        breakdown="1/2",
        robustness="(f, kappa): kappa = 4 (1 + f/(n-2f))^2 [Allouah et al. 2023]; (delta, c) after bucketing",
        use="A good first choice: it needs no f, no tuning, and depends smoothly on its "
        "input. Where clients hold different data, put nnm before it.",
        formula=r"z = \arg\min_y \sum_{i=1}^{n} \lVert y - v_i \rVert",
        kappa=lambda n, f, **_: 4 * (1 + f / (n - 2 * f)) ** 2,
    ),
    aliases=["rfa", "geomed", "gm"],
)
def geometric_median(
    points: Points,
    f: int,
    *,
    smoothing: Annotated[float, Gt(0)] = 1e-6,
    tolerance: Annotated[float, Gt(0)] = 1e-6,
    iterations: Annotated[int, Ge(1)] = 1000,
) -> Floats:
    """Minimise the sum of the distances to the vectors, by smoothed Weiszfeld steps (RFA).

    w_i = 1 / max(‖z - v_i‖, nu), z = sum w_i v_i / sum w_i, where nu = smoothing * scale and scale is the smallest median
    distance of a vector to the others. The steps end when the sum of the distances is at most (1 + tolerance) times its minimum,
    up to n nu/2, or after ``iterations`` steps. Proof of the bound: a step from z is as long as ‖g‖ / sum w_i, where g is the
    gradient of the smoothed sum F; F is convex, and its minimiser is within 2 F(z)/n of z, so F(z) - min F <= 2 ‖g‖ F(z)/n.
    f is not used.
    Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", IEEE TSP 2022; the bound is ours.
    """
    n, gram = points.size, points.gram[:-1, :-1]
    distance = median(np.sqrt(points.squared_distances()))
    scale = float(distance.min())
    if scale == 0.0:  # most vectors are equal
        return uniform(n, np.flatnonzero(distance == 0.0))
    weights, begun = np.zeros(n), False
    for _ in range(iterations + 1):
        step = 1.0 / np.maximum(distance, smoothing * scale)
        total = float(step.sum())
        moved = step / total - weights
        weights = step / total
        # F(z) <= F(z*) + 2 ‖g‖ F(z)/n, so F(z) <= F(z*) / (1 - 2 ‖g‖/n)
        if begun and 2 * total * np.sqrt(max(product(moved[None], product(gram, moved))[0], 0.0)) <= n * tolerance / (
            1 + tolerance
        ):
            break
        begun = True
        distance = points.distances_to(weights)
    return weights


def _centered_max_byzantine(n: int, start: str = "medoid", **_: Any) -> int:
    return minority(n) if start == "medoid" else no_byzantine(n)


@span_rule(
    "centered_clip",
    Facts(
        max_f=minority,
        max_byzantine=_centered_max_byzantine,
        breakdown="f/n < 1/2 with tau fit to the spread",
        robustness="(delta, c) by itself, proved for small delta and a tau set from the honest variance, not for the "
        "default tau [Karimireddy et al. 2021]",
        use="Few hostile clients and a spread that is known, so that tau can be set; without f.",
        formula=r"z \leftarrow z + \frac{1}{n} \sum_{i=1}^{n} \min\left(1, "
        r"\frac{\tau}{\lVert v_i - z \rVert}\right) (v_i - z)",
    ),
    aliases=["cclip", "centered_clipping"],
)
def centered_clip(
    points: Points,
    f: int,
    *,
    tau: Annotated[float, Gt(0)] | None = None,
    iterations: Annotated[int, Ge(1)] = 5,
    start: Literal["medoid", "zero"] = "medoid",
) -> Floats:
    """Repeat z <- z + mean of clip_tau(v_i - z).

    The start "medoid" is the vector (or the mean of the vectors) with the smallest median distance to the others; a minority
    cannot move it away from the majority. The start "zero" suits differences clipped to lambda (tau about lambda/2); if the last
    step does not reach the vectors from there, the rest of the way is an error, which hostile vectors enlarge. With a given tau
    the error may exceed what the spread explains by iterations * tau * f/n.
    tau: by default, in each step, the median distance to z. f is not used.
    Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021.
    """
    n = points.size
    weights = np.zeros(n)
    if start == "medoid":
        typical = median(points.squared_distances())
        weights = uniform(n, np.flatnonzero(typical == typical.min()))
    for _ in range(iterations):
        distance = points.distances_to(weights)
        radius = tau / points.unit if tau is not None else float(median(distance))
        factors = clip_factors(distance, radius) / n
        weights = weights * (1.0 - factors.sum()) + factors
    return weights


def _trusts_no_row(run: RunFacts, key: str, *, pivot: int | None) -> None:
    if pivot is not None:
        raise ConfigError(
            f"{key}.pivot: a row has no fixed client, because each round draws other clients, and some may not reply; "
            "leave the key out."
        )


@span_rule(
    "monna",
    Facts(
        max_f=minority,
        breakdown="f/n < 1/2, for the declared f; with a chosen pivot, if that row is honest",
        robustness="at most 5f/(n-f) honest diameters from the honest mean [ours: the pivot is within a diameter of some honest "
        "vector, so the hostile vectors kept are within four diameters of the honest mean]",
        use="If the declared f is right: it averages n - f vectors, so that little of the averaging is lost.",
        formula=r"z = \frac{1}{n-f} \sum_{i \in S} v_i, \quad S = \text{the } n-f \text{ nearest to the pivot } v_p",
    ),
)
@checks_run(_trusts_no_row)
def monna(points: Points, f: int, *, pivot: Annotated[int, Ge(0)] | None = None) -> Floats:
    """Average the n - f vectors nearest to a pivot, which is one of them.

    The pivot is the vector with the smallest median distance to all vectors. A minority cannot make it a vector far from the honest
    ones. ``pivot`` names a row that the caller trusts instead (in the paper, the node's own row).
    Farhadkhani et al., "Robust Collaborative Learning with Linear Gradient Overhead", ICML 2023.
    """
    squared = points.squared_distances()
    kept = int(median(squared).argmin()) if pivot is None else points.vectors.kept(pivot)
    if kept is None or kept >= points.size:
        raise ConfigError(f"monna.pivot: row {pivot} is not one of the {points.size} vectors, or was dropped.")
    return uniform(points.size, nearest(squared[kept], points.size - f))


@span_rule(
    "cge",
    Facts(
        max_f=minority,
        max_byzantine=no_byzantine,
        breakdown="0: even if all honest vectors are equal, a hostile one of the same norm moves the result; f/n < 1/3 "
        "with redundancy among the honest vectors [Gupta et al. 2021]",
        robustness="",
        cost="none",
        use="Only against clients that send large vectors: short hostile ones stay in.",
        formula=r"z = \frac{1}{n-f} \sum_{i \in S} v_i, \quad S = \text{the } n-f \text{ smallest } \lVert v_i \rVert",
    ),
    products=False,
    aliases=["comparative_gradient_elimination"],
)
def cge(points: Points, f: int) -> Floats:
    """Average the n - f shortest vectors (comparative gradient elimination). Gupta, Liu, Vaidya, 2021."""
    return uniform(points.size, nearest(points.norms(), points.size - f))


def _inner_fits(run: RunFacts, key: str, *, rule: str | dict[str, Any]) -> None:
    RULES.check_run(RULES.check(rule, f"{key}.rule"), run, f"{key}.rule")


@wrapper_rule(
    "ctma",
    Facts(
        max_f=minority,
        breakdown="that of the inner rule",
        robustness="(f, kappa): kappa = 4f/(n-f) (1 + kappa of the inner rule) [ours: the hostile vectors kept are at most as "
        "far from the inner result as the honest ones left out]; see Dahan, Levy 2024",
        cost="that of the inner rule and O(n d)",
        use="To take the noise out of a rule that returns one vector or a median, at little cost.",
        formula=r"z = \frac{1}{n-f} \sum_{i \in S} v_i, \quad S = \text{the } n-f "
        r"\text{ nearest to the result of the inner rule}",
        kappa=lambda n, f, inner, **_: 4 * f / (n - f) * (1 + inner),
    ),
)
@checks_run(_inner_fits)
def ctma(distances: Floats, f: int, *, rule: str | dict[str, Any]) -> Floats:
    """Average the n - f vectors nearest to the result of another rule (centred trimmed meta-aggregator).

    Dahan, Levy, "Fault Tolerant ML: Efficient Meta-Aggregation and Synchronous Training", ICML 2024.
    """
    n = len(distances)
    return uniform(n, nearest(distances, n - f))
