from math import comb

import numpy as np
import pytest
from scipy.stats import chisquare

from byzdist.errors import ConfigError
from byzdist.participation import bernoulli, draw_cohort, read_trace
from byzdist.rounds import Round


def test_a_cohort_is_a_set_of_clients_in_ascending_order():
    for round_ in range(200):
        cohort = draw_cohort(Round(round_, 3), clients=11, size=4)
        assert len(cohort) == 4 and (np.diff(cohort) > 0).all() and cohort[0] >= 0 and cohort[-1] < 11
    assert draw_cohort(Round(0, 3), clients=5, size=5).tolist() == [0, 1, 2, 3, 4]
    assert draw_cohort(Round(0, 3), clients=5, size=9).tolist() == [0, 1, 2, 3, 4]


def test_every_cohort_is_equally_likely():
    clients, size, rounds = 6, 3, 6000
    counts: dict[tuple[int, ...], int] = {}
    for round_ in range(rounds):
        cohort = tuple(draw_cohort(Round(round_, 1), clients, size).tolist())
        counts[cohort] = counts.get(cohort, 0) + 1
    assert len(counts) == comb(clients, size)
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_the_cohort_depends_on_seed_and_round_alone():
    first = draw_cohort(Round(2, 1), 100, 10)
    assert np.array_equal(first, draw_cohort(Round(2, 1), 100, 10))
    assert not np.array_equal(first, draw_cohort(Round(3, 1), 100, 10))
    assert not np.array_equal(first, draw_cohort(Round(2, 2), 100, 10))


def test_a_cohort_comes_from_those_who_are_there():
    there = np.array([1, 4, 6, 9])
    seen = {client for round_ in range(100) for client in draw_cohort(Round(round_, 0), 10, 2, there).tolist()}
    assert seen == {1, 4, 6, 9}
    assert np.array_equal(draw_cohort(Round(0, 0), 10, 5, there), there)
    everyone = np.arange(10)
    assert np.array_equal(draw_cohort(Round(7, 0), 10, 3, everyone), draw_cohort(Round(7, 0), 10, 3))


def test_bernoulli_availability_has_the_given_frequency():
    clients, rounds, q = 50, 400, 0.3
    counts = np.zeros(clients)
    for round_ in range(rounds):
        counts[bernoulli(Round(round_, 0), clients, q=q)] += 1
    deviation = np.sqrt(rounds * q * (1 - q))
    assert (abs(counts - rounds * q) < 4.5 * deviation).all()
    assert abs(counts.sum() - clients * rounds * q) < 4 * deviation * np.sqrt(clients)


@pytest.mark.parametrize(
    "text, complaint",
    [("", "is empty"), ("0 1\n2 x\n", "more than client ids"), ("0 1\n1 5\n", "line 2 .* other than 0..4")],
)
def test_a_wrong_trace_is_refused(tmp_path, text, complaint):
    (tmp_path / "trace").write_text(text)
    with pytest.raises(ConfigError, match=rf"clients.availability.path: .*{complaint}"):
        read_trace(str(tmp_path / "trace"), 5)


def test_a_trace_says_who_is_there(tmp_path):
    (tmp_path / "trace").write_text("3 1\n\n0 2 0\n")
    assert [line.tolist() for line in read_trace(str(tmp_path / "trace"), 5)] == [[1, 3], [], [0, 2]]
