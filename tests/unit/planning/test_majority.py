"""The law of Byzantine clients in a cohort, against binomial coefficients, against draws, and against figures of the literature."""

from math import comb

import numpy as np
import pytest

from byzdist.participation import draw_cohort
from byzdist.planning.majority import (
    Safe,
    divergence,
    kl_cohort,
    law,
    majority,
    more_than,
    never,
    safe_cohort,
    safe_cohort_of,
    smallest_f,
)
from byzdist.planning.theory import Setting
from byzdist.rounds import Round

SIZES = [(20, 5, 4), (20, 5, 20), (25, 12, 11), (9, 4, 5), (40, 0, 7), (31, 15, 1)]


def exact(n, b, cohort):
    return [comb(b, k) * comb(n - b, cohort - k) / comb(n, cohort) for k in range(cohort + 1)]


@pytest.mark.parametrize("n, b, cohort", SIZES)
def test_the_law_is_the_quotient_of_binomial_coefficients(n, b, cohort):
    assert law(n, b, cohort) == pytest.approx(exact(n, b, cohort), rel=1e-12, abs=0)


def test_the_law_of_a_million_clients_has_its_mean_and_variance_and_loses_no_tail():
    n, b, cohort = 10**6, 2 * 10**5, 10**4
    chances, k, share = law(n, b, cohort), np.arange(cohort + 1), b / n
    mean = float(chances @ k)
    assert mean == pytest.approx(cohort * share, rel=1e-12)
    assert float(chances @ (k - mean) ** 2) == pytest.approx(
        cohort * share * (1 - share) * (n - cohort) / (n - 1), rel=1e-9
    )
    assert 0 < majority(n, b, 100) < 1e-8


def test_ten_thousand_cohorts_are_as_the_law_says():
    n, b, cohort, draws = 20, 5, 4, 10_000
    clients = np.random.default_rng(0).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)[:, :cohort]
    counts = np.bincount((clients >= n - b).sum(1), minlength=cohort + 1) / draws
    chances = law(n, b, cohort)
    assert np.abs(counts - chances).max() < 5 * np.sqrt(0.25 / draws)
    assert majority(n, b, cohort) == pytest.approx(float(chances[3:].sum()))


@pytest.mark.parametrize(
    "n, b, rounds, confidence, by_kl, by_law",
    [
        (150, 30, 500, 0.99, (53, 26), (29, 14)),
        (150, 15, 1500, 0.99, (27, 13), (15, 7)),
        (100, 10, 1000, 0.99, (25, 12), (15, 7)),
        (100, 20, 1000, 0.9, (45, 22), (23, 11)),
        (25, 5, 3000, 0.99, (25, 6), (11, 5)),
        (20, 5, 2000, 0.99, (20, 6), (11, 5)),
    ],
)
def test_the_safe_cohorts_of_published_settings(n, b, rounds, confidence, by_kl, by_law):
    assert kl_cohort(n, b, rounds, confidence) == by_kl
    assert safe_cohort(n, b, rounds, confidence) == by_law


@pytest.mark.parametrize(
    "n, b, rounds, confidence", [(30, 8, 50, 0.9), (41, 20, 3, 0.5), (17, 1, 10**4, 0.999), (12, 0, 9, 0.99)]
)
def test_the_safe_cohort_is_the_smallest_of_all(n, b, rounds, confidence):
    def is_safe(cohort):
        half = sum(chance for k, chance in enumerate(exact(n, b, cohort)) if 2 * k >= cohort)
        return (1 - half) ** rounds >= confidence

    cohort, f = safe_cohort(n, b, rounds, confidence)
    assert cohort == next(size for size in range(1, n + 1) if is_safe(size))
    assert (1 - sum(exact(n, b, cohort)[f + 1 :])) ** rounds >= confidence
    assert f == 0 or (1 - sum(exact(n, b, cohort)[f:])) ** rounds < confidence
    assert safe_cohort_of(lambda size: (size - 1) // 2, n, b, rounds, confidence) == (cohort, f)


def test_a_rule_that_tolerates_less_needs_a_larger_cohort_or_has_none():
    assert safe_cohort_of(lambda size: max(0, (size - 3) // 2), 100, 20, 1000, 0.9) == Safe(
        27, 12
    )  # the chance at 25 is 0.83
    assert safe_cohort_of(lambda size: 0, 100, 20, 1000, 0.9) is None


@pytest.mark.soak
@pytest.mark.parametrize("n, b, cohort, rounds", [(20, 5, 4, 50), (100, 30, 10, 20), (25, 7, 5, 10)])
def test_every_probability_agrees_with_a_million_cohorts_as_a_run_draws_them(n, b, cohort, rounds):
    """Each share is within five standard deviations of its probability: one test in a million would fail by chance."""
    draws, f = 10**6, b * cohort // n
    drawn = [draw_cohort(Round(number, 1), n, cohort) for number in range(draws)]
    byzantine = np.fromiter(((members >= n - b).sum() for members in drawn), np.int64, draws)
    with_client_0 = np.fromiter((members[0] == 0 for members in drawn), bool, draws)
    setting = Setting(n, b, cohort, 0.1, 1.0, 0.0, 1.0, 1.0)
    good, bad = byzantine <= f, 2 * byzantine > cohort
    chance = majority(n, b, cohort)

    def agrees(share, expected, count):
        return abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / count)

    assert all(
        agrees((byzantine == k).mean(), expected, draws) for k, expected in enumerate(law(n, b, cohort)) if expected
    )
    assert agrees(bad.mean(), chance, draws) and agrees(good.mean(), setting.good_cohort, draws)
    assert agrees(with_client_0[good].mean(), setting.honest_share, good.sum())
    runs = bad.reshape(-1, rounds)
    assert agrees((~runs.any(1)).mean(), never(chance, rounds), len(runs))
    gaps = np.diff(
        np.flatnonzero(bad), prepend=-1
    )  # rounds to the next majority, whose mean is 1/q and deviation √(1-q)/q
    assert abs(gaps.mean() - 1 / chance) <= 5 * np.sqrt(1 - chance) / chance / np.sqrt(len(gaps))
    smallest = smallest_f(n, b, cohort, rounds, 0.9)
    all_at_most = (byzantine.reshape(-1, rounds) <= smallest).all(1).mean()
    fewer = (byzantine.reshape(-1, rounds) < smallest).all(1).mean()
    assert all_at_most > 0.9 - 5 * 0.3 / np.sqrt(len(runs)) and fewer < 0.9 + 5 * 0.3 / np.sqrt(len(runs))


def test_small_chances_and_many_rounds_lose_nothing():
    assert never(1e-18, 10**6) == 1 - 1e-12 and 1 - never(1e-12, 1e6) == pytest.approx(1e-6, rel=1e-4)
    assert never(1.0, 5) == 0.0 and never(1.0, 0) == 1.0
    assert smallest_f(10, 3, 10, 5, 0.999) == 3 and more_than(10, 3, 10, 3) == 0.0
    assert divergence(0.5, 0.2) == pytest.approx(0.22314355131421, rel=1e-12) and divergence(0.0, 0.0) == 0.0
