"""The theorems' constants, against the formulas as sums of binomial coefficients, and against draws."""

from dataclasses import replace
from math import comb, sqrt

import numpy as np
import pytest

from byzdist.planning.theory import Setting, theorem_1, theorem_2

SETTING = Setting(
    clients=20, declared=5, cohort=4, p=0.05, robustness=4.5, omega=9.0, compressor_bound=10.0, rule_bound=sqrt(4 / 3)
)


def shares(n, honest, cohort):
    """Return p_G and P_C as they stand in the paper."""
    delta = (n - honest) / n
    counts = [t for t in range(cohort + 1) if t >= (1 - delta) * cohort - 1e-12]
    good = sum(comb(honest, t) * comb(n - honest, cohort - t) for t in counts) / comb(n, cohort)
    with_one = sum(comb(honest - 1, t - 1) * comb(n - honest, cohort - t) for t in counts if t) / comb(
        n - 1, cohort - 1
    )
    return good, cohort / (n * good) * with_one


@pytest.mark.parametrize("n, declared, cohort", [(20, 5, 4), (20, 5, 20), (25, 7, 10), (9, 0, 3), (40, 19, 1)])
def test_the_shares_of_good_cohorts(n, declared, cohort):
    setting = replace(SETTING, clients=n, declared=declared, cohort=cohort)
    assert (setting.good_cohort, setting.honest_share) == pytest.approx(shares(n, n - declared, cohort), rel=1e-12)


def test_the_share_of_an_honest_client_is_that_of_drawn_cohorts():
    n, declared, cohort, draws = 20, 5, 4, 10_000
    clients = np.random.default_rng(1).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)[:, :cohort]
    good = (clients >= n - declared).sum(1) <= 1
    among = (clients[good] == 0).any(1).mean()
    assert good.mean() == pytest.approx(SETTING.good_cohort, abs=5 * 0.5 / sqrt(draws))
    assert among == pytest.approx(SETTING.honest_share, abs=5 * 0.5 / sqrt(draws))


def test_the_constants_are_those_of_the_theorems():
    p_good, p_client = shares(20, 15, 4)
    p, omega, D, F, cd = 0.05, 9, 10, sqrt(4 / 3), 4.5
    drawn = p_good * 15 * p_client / (0.75 * 4)
    first = 32 * drawn / p**2 * (30 * omega + 11) * (1 + 2 * cd) + 16 * (1 - p_good) * (1 + 4 * F**2) / p**2
    second = (
        4 * drawn / p * ((3 * omega + 2) / 3 + 8 * (5 * omega + 4) * cd / p)
        + 8 * (1 - p_good) * (2 + F**2 * D**2) / p**2
    )
    any_q, bounded_q = theorem_1(SETTING), theorem_2(SETTING)
    assert (any_q.A, bounded_q.A) == pytest.approx((first, second), rel=1e-12)
    assert (any_q.level, bounded_q.level) == (2, 10)
    assert any_q.step(3.0) == pytest.approx(1 / (3 * (1 + sqrt(first))))
    assert bounded_q.step(3.0, pl=True) == pytest.approx(1 / (3 * (1 + sqrt(2 * second))))
    assert any_q.rate(10.0, 1.0) == p / 8 and bounded_q.rate(10.0, 1.0) == p / 4 and bounded_q.rate(1e-4, 2.0) == 2e-4


@pytest.mark.parametrize(
    "cohort, shares, first, second", [(1, (3 / 4, 1 / 15), 1488, 136 / 3), (20, (1, 1), 1408, 16 / 15)]
)
def test_a_cohort_of_one_and_one_of_all_have_the_closed_forms_of_the_paper(cohort, shares, first, second):
    """Section 4: p_G = G/n and P_C = 1/G for C = 1, and both are 1 for C = n. So p_G G P_C / ((1-δ)C) is 1; the rest is by hand."""
    plain = replace(SETTING, cohort=cohort, p=0.5, robustness=0.0, omega=0.0, compressor_bound=1.0, rule_bound=1.0)
    assert (plain.good_cohort, plain.honest_share) == pytest.approx(shares)
    any_q, bounded_q = theorem_1(plain), theorem_2(plain)
    assert (any_q.A, bounded_q.A) == pytest.approx((first, second))


def test_without_omega_or_a_bound_of_the_compressor_there_is_no_theorem():
    assert theorem_1(replace(SETTING, omega=None)) is None and theorem_2(replace(SETTING, omega=None)) is None
    unbounded = replace(SETTING, compressor_bound=None)
    assert theorem_2(unbounded) is None and theorem_1(unbounded) == theorem_1(SETTING)
