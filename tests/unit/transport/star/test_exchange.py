"""A round's exchange, without a process and with a clock of the test's own."""

import numpy as np

from byzdist.rounds import Round
from byzdist.transport.base import Request
from byzdist.transport.star.exchange import Exchange
from tests.unit.transport.star.test_membership import members


def begun(found, cohort, number=4, exchange=None):
    exchange = exchange or Exchange(found._shape)
    request = Request(Round(number, 0, False, np.array(cohort)), 40, True)
    return exchange, exchange.begin(request, found, now=10.0)


def test_rows_are_given_without_a_gap_and_replies_come_back_by_client():
    found = members(clients=7, workers=3)
    exchange, ranks = begun(found, [1, 2, 4, 6])
    assert set(ranks) == {1, 2, 3} and exchange.rows == {1: 0, 2: 1, 4: 2, 6: 3} and exchange.awaited == 4
    assert found.workers[2].pending == {1, 4} and found.workers[2].rows == {1: 0, 4: 2}
    for client in (6, 1, 4):
        assert exchange.settle(found.workers[1 + client % 3], client, now=11.5) == ""
    assert exchange.settle(found.workers[3], 2, now=12.0, missing="wrong checksum") == ""
    assert exchange.awaited == 0 and (exchange.sent_at, exchange.heard_at) == (10.0, 12.0)
    present, missing = exchange.end()
    assert list(present.items()) == [(1, 0), (4, 2), (6, 3)] and missing == {2: "wrong checksum"}


def test_who_cannot_be_reached_is_missing_at_once_and_says_why():
    found = members(clients=8, workers=4)
    found.workers[1].state = "left: silent"
    found.workers[2].pending, found.workers[2].round = {1}, 3
    found.resting.add(3)
    for _ in range(2):
        found.offend(7, "not finite")
    exchange, ranks = begun(found, [0, 1, 2, 3, 7])
    assert ranks == [4] and exchange.awaited == 1
    exchange.settle(found.workers[4], 3, now=11.0, afresh=True)
    present, missing = exchange.end()
    assert present == {3: 0} and exchange.afresh == {3}
    assert missing == {
        0: "left: silent",
        1: "busy since round 3",
        2: "late too often",
        7: "quarantined: not finite",
    }


def test_a_reply_that_comes_late_is_dropped_and_its_row_stays_its_own_till_then():
    found = members(clients=4, workers=4)
    exchange, _ = begun(found, [0, 1])
    exchange.settle(found.workers[1], 0, now=11.0)
    assert exchange.end()[1] == {1: "no reply by the deadline"} and exchange.awaited == 1
    found.workers[1].rows = {}
    _, ranks = begun(found, [0, 1, 2], 5, exchange)
    assert ranks == [1, 3] and exchange.rows == {0: 0, 1: 0, 2: 2}, "row 1 is client 1's until its gateway is done"
    assert exchange.settle(found.workers[2], 1, now=12.0) == "client 1 answered round 4 too late"
    assert exchange.settle(found.workers[2], 1, now=12.0) == "", "it is told once"
    assert found.workers[2].is_free and exchange.awaited == 2
    assert exchange.end()[1][1] == "busy since round 4"
