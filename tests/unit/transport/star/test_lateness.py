import random

import pytest

from byzdist.transport.star.lateness import Allowance


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("lateness", ["always", "now and then", "in bursts"])
def test_waiting_in_vain_takes_no_more_than_its_share_of_a_run(share, lateness):
    """Rounds take 10 ms, and a deadline of 2 s where the worker is asked and late."""
    rng, deadline = random.Random(0), 2.0
    mine, now, vain, asked = Allowance(deadline, share, 0.0), 0.0, 0.0, 0
    for round_ in range(50_000):
        now += 0.01
        is_late = {"always": True, "now and then": rng.random() < 0.2, "in bursts": round_ // 500 % 2 == 0}[lateness]
        if mine.seconds_to_go(now) == 0 and is_late:
            asked += 1
            vain, now = vain + deadline, now + deadline
            mine.spend(deadline, now)
    assert vain <= 3 * deadline + share * now
    assert vain >= 0.3 * share * now and asked > 3, "it is asked again and again"


def test_three_deadlines_are_free_and_then_there_is_a_pause():
    mine = Allowance(2.0, 0.1, 100.0)
    for deadline in range(3):
        assert mine.seconds_to_go(100.0) == 0, deadline
        mine.spend(2.0, 100.0)
    assert mine.seconds_to_go(100.0) == pytest.approx(20.0)
    assert mine.seconds_to_go(110.0) == pytest.approx(10.0)
    assert mine.seconds_to_go(120.001) == 0
    mine.spend(2.0, 10_000.0)
    mine.spend(2.0, 10_000.0)
    assert mine.seconds_to_go(10_000.0) == 0, "it is full again, and no fuller"
    mine.spend(2.0, 10_000.0)
    assert mine.seconds_to_go(10_000.0) == pytest.approx(20.0)


def test_a_share_of_all_is_no_limit():
    mine = Allowance(2.0, 1.0, 0.0)
    for now in range(2, 200, 2):
        mine.spend(2.0, float(now))
        assert mine.seconds_to_go(float(now)) == 0
