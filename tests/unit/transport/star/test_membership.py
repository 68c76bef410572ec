"""Who can be asked, without a process and with a clock of the test's own."""

import pytest
import torch

from byzdist.transport.base import IN_QUARANTINE, Shape
from byzdist.transport.star.membership import Membership, Terms

TERMS = Terms(deadline=5.0, join_timeout=10.0, min_replies=3, offences=2, late_share=0.5)


def members(clients=7, workers=3, terms=TERMS):
    shape = Shape(0, clients, workers, 5, 2, clients, 40, torch.float64, torch.device("cpu"))
    made = Membership(shape, terms, now=0.0)
    for worker in made.workers.values():
        worker.state = ""
    return made


def test_a_client_can_be_asked_where_its_worker_is_linked_owes_nothing_and_does_not_rest():
    found = members()
    assert found.free_clients().tolist() == [0, 1, 2, 3, 4, 5, 6]
    found.workers[2].state = "left: silent"
    assert found.free_clients().tolist() == [0, 2, 3, 5, 6]
    found.workers[3].pending = {5}
    assert found.free_clients().tolist() == [0, 3, 6]
    found.workers[3].pending = set()
    found.resting.add(1)
    assert found.free_clients().tolist() == [2, 5]


def test_offences_add_up_to_a_quarantine_that_is_the_clients_own():
    found = members()
    assert [found.offend(4, "not finite") for _ in range(3)] == [False, True, False]
    assert found.free_clients().tolist() == [0, 1, 2, 3, 5, 6]
    assert not found.hosts_nobody(2) and found.conducts[4].quarantine == "not finite"
    assert [found.offend(1, "late"), found.offend(1, "later")] == [False, True]
    assert found.hosts_nobody(2) and found.count_acceptable() == 5


def test_what_was_offended_is_taken_up_elsewhere():
    before, after = members(), members()
    before.offend(4, "one"), before.offend(4, "two"), before.offend(5, "one")
    before.workers[3].conduct.offend("expelled", 2)
    clients, workers = after.restore(before.offences())
    assert (clients, workers) == ({4: "two"}, {})
    assert after.offences() == before.offences()
    assert after.offend(5, "two"), "the first one counts"


def test_who_is_always_late_rests_until_it_has_time_again_or_the_run_needs_it():
    found = members()
    found.workers[1].pending, found.workers[1].round = {0, 3, 6}, 8
    told = [text for now in (5.0, 10.0, 15.0, 20.0, 25.0) for text in found.charge_the_late(8, 5.0, now)]
    assert len(told) == len(set(told)) >= 1 and "worker 1 is late too often" in told[0] and found.resting == {1}
    found.workers[1].pending = set()
    found.end_rests(25.1)
    assert found.resting == {1} and found.free_clients().tolist() == [1, 2, 4, 5]
    found.end_rests(40.0)
    assert not found.resting
    found.resting, found.terms = {1}, Terms(5.0, 10.0, 6, 2, 0.5)
    found.end_rests(40.0)
    assert not found.resting, "six clients are needed, and four are there without it"


def test_no_majority_rests():
    found = members()
    for worker in found.workers.values():
        worker.pending, worker.round = {0}, 1
    for now in range(5, 500, 5):
        found.charge_the_late(1, 5.0, float(now))
    assert len(found.resting) == 1


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (range(5), "only 2 of 7 clients are not in quarantine .*min_replies is 3; the reasons: b"),
        (range(7), "all 7 clients"),
    ],
)
def test_why_too_few_can_be_asked_names_the_quarantines(out, words):
    found = members()
    for client in out:
        found.offend(client, "a"), found.offend(client, "b")
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(found.why_too_few(0))


def test_why_too_few_can_be_asked_names_the_workers_that_are_away():
    found = members()
    found.workers[2].state = "left: silent"
    assert "only 2 of 7 clients could be reached for 10 s" in found.why_too_few(2)
    assert "{2: 'left: silent'}" in found.why_too_few(2) and IN_QUARANTINE not in found.why_too_few(2)
