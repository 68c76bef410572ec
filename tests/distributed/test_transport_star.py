"""The star's two ends with true gateways between them; workers are threads."""

import os
import time
from dataclasses import replace
from functools import partial

import numpy as np
import psutil
import pytest
import torch

from byzdist.errors import RunError
from byzdist.transport.base import Missing
from byzdist.transport.identity import worker_key
from byzdist.transport.link import Link, connect, join
from tests.star import SECRET, TERMS, Star, enter, reply, shape_of, truth, values


@pytest.mark.parametrize("dimension", [1, 10, 60_000])  # the last is sent from shared memory, in a message of its own
def test_every_client_gets_the_model_and_is_heard(dimension: int) -> None:
    with Star(shape_of(3, clients=7, dimension=dimension)) as star:
        star.start_honest(1, 2, 3)
        star.server.open()
        rng = np.random.default_rng(0)
        for round_ in range(12):
            full = round_ % 5 == 0
            cohort = None if full else sorted(rng.choice(7, 3, replace=False).tolist())
            replies = star.ask(cohort, full=full)
            assert list(replies) == (cohort or list(range(7)))
            for client, payload in replies.items():
                assert torch.equal(values(payload), truth(star, client, full=full)), (round_, client)


def test_bytes_are_those_of_the_messages() -> None:
    with Star(shape_of(2, dimension=5)) as star:
        star.start_honest(1, 2)
        star.server.open()
        star.ask(full=True)
        ids = 64  # room for two ids, rounded up
        assert star.server.bytes_down == 2 * (64 + ids + 40)
        assert star.server.bytes_up == 2 * (64 + 40)
        star.ask([1])  # holds x^{k-1}
        assert star.server.bytes_down == 64 + ids + 40
        star.ask([0])  # does not, and gets it
        assert star.server.bytes_down == 64 + ids + 80


def test_a_client_that_is_not_there_is_missing_at_once() -> None:
    with Star(shape_of(2)) as star:
        star.start_honest(1)
        star.joined(1)
        started = time.monotonic()
        replies = star.ask(full=True)
        assert time.monotonic() - started < 2
        assert replies[1] == Missing("has not joined yet")
        assert torch.equal(values(replies[0]), truth(star, 0, full=True))
        assert star.server.available().tolist() == [0]
        star.start_honest(2)  # late
        star.joined(2)
        assert star.server.available().tolist() == [0, 1]


def test_a_deadline_holds_and_a_late_reply_is_dropped() -> None:
    with Star(shape_of(2)) as star:
        star.start_honest(1)
        star.joined(1)
        link = enter_in(star, 2)
        started = time.monotonic()
        replies = star.ask(full=True, deadline=0.5)
        assert 0.5 <= time.monotonic() - started < 0.6
        assert replies[1] == Missing("no reply by the deadline")
        assert star.ask(full=True)[1] == Missing("busy since round 0")
        assert star.server.available().tolist() == [0]
        request = torch.zeros(10_000, dtype=torch.uint8)
        link.receive(request)
        link.send(reply(0, 1, torch.full((10,), 7.0, dtype=torch.float64)))
        while 1 not in star.server.available():
            time.sleep(0.01)
        assert star.server.news[-1] == "client 1 answered round 0 too late"
        # What it is sent next holds x^{k-1} as well, and its answer counts again.
        star.start(lambda: (link.receive(request), link.send(reply(2, 1, torch.ones(10, dtype=torch.float64)))))
        replies = star.ask()
        assert torch.equal(values(replies[1]), torch.ones(10, dtype=torch.float64))


BAD = {
    "wrong length: 79 bytes instead of 80": partial(reply, length=79),
    "wrong checksum": partial(reply, checksum=1),
    "a sampled message instead of a reply": partial(reply, kind=1),
    "reply to round 9": lambda round_, client, payload: reply(9, client, payload),
    "reply of client 10": lambda round_, client, payload: reply(round_, 10, payload),
    "no byzdist message": lambda round_, client, payload: torch.full((144,), 255, dtype=torch.uint8),
}


def test_a_malformed_reply_is_missing_with_its_reason() -> None:
    with Star(shape_of(2), replace(TERMS, offences=100)) as star:
        star.start_honest(1)
        star.joined(1)
        link = enter_in(star, 2)

        def lie() -> None:
            for round_, forge in enumerate(BAD.values()):
                link.receive(torch.zeros(10_000, dtype=torch.uint8))
                link.send(forge(round_, 1, torch.ones(10, dtype=torch.float64)))
            for nothing in (torch.zeros(0, dtype=torch.uint8), torch.zeros(70, dtype=torch.uint8)):
                link.receive(torch.zeros(10_000, dtype=torch.uint8))
                link.send(nothing)
            link.receive(torch.zeros(10_000, dtype=torch.uint8))
            link.post_send(torch.zeros(100_000, dtype=torch.uint8))  # never received to its end

        star.start(lie)
        for reason in (*BAD, "no byzdist message", "no byzdist message", "left: sent more than it was asked for"):
            replies = star.ask(full=True)
            assert replies[1] == Missing(reason)
            assert torch.equal(values(replies[0]), truth(star, 0, full=True))


def test_after_its_offences_a_worker_is_in_quarantine() -> None:
    with Star(shape_of(1), replace(TERMS, offences=2)) as star:
        link = enter_in(star, 1)
        for round_, reason in enumerate(("wrong checksum", "wrong checksum")):
            star.start(
                lambda round_=round_: (
                    link.receive(torch.zeros(10_000, dtype=torch.uint8)),
                    link.send(reply(round_, 0, torch.ones(10, dtype=torch.float64), checksum=5)),
                )
            )
            assert star.ask(full=True) == {0: Missing(reason)}
        assert star.ask(full=True) == {0: Missing("quarantined: wrong checksum")}
        assert star.server.news[-1].startswith("worker 1 is in quarantine after 2 offences")
        with pytest.raises(RunError, match="worker rank 1: it is in quarantine, the last reason: wrong checksum"):
            enter(1)


def test_a_worker_that_comes_back_is_sent_both_models() -> None:
    with Star(shape_of(2)) as star:
        star.start_honest(1)
        star.joined(1)
        link = enter_in(star, 2)
        star.server.news.clear()
        del link  # the process group goes with it
        while star.server._listen(5) and not star.server.news:
            pass
        assert star.server.news == ["worker 2 left: connection closed"]
        star.start_honest(2)
        star.joined(2)
        star.ask(full=True)
        assert torch.equal(values(star.ask()[1]), truth(star, 1))


def test_a_live_link_is_not_displaced() -> None:
    with Star(shape_of(1)) as star:
        star.start_honest(1)
        star.joined(1)
        with pytest.raises(RunError, match="no server let worker rank 1 in within 1 s"):
            join(connect(host=False, patience=5), 1, worker_key(SECRET, 1), 1.0, lambda: True)
        assert torch.equal(values(star.ask(full=True)[0]), truth(star, 0, full=True))


def test_nobody_joins_without_the_secret_or_as_somebody_else() -> None:
    with Star(shape_of(2)) as star:
        store = connect(host=False, patience=5)
        for key in (worker_key(b"another secret, long enough", 1), worker_key(SECRET, 2)):
            with pytest.raises(RunError, match="no server let"):
                join(store, 1, key, 1.5, lambda: True)
        assert isinstance(star.ask(full=True)[0], Missing)
        star.start_honest(1)
        star.joined(1)


def test_too_few_clients_end_the_run_with_the_reason() -> None:
    star = Star(shape_of(2), replace(TERMS, join_timeout=0.5, min_replies=2))
    star.start_honest(1)
    with star, pytest.raises(RunError, match=r"only 1 of 2 clients.*min_replies is 2.*2: 'has not joined yet'"):
        star.server.open()


def test_a_model_that_was_overtaken_by_the_next_round_is_not_taken_for_its_own() -> None:
    """A worker that reads too late gets something else than x^k; when it is asked again, it is sent x^{k-1} as well."""
    with Star(shape_of(1, dimension=2_000_000)) as star:
        link = enter_in(star, 1)
        assert isinstance(star.ask(full=True, deadline=0.3)[0], Missing)  # nothing leaves before it is received
        star.server.frame.current.fill_(-1.0)  # as the next round would
        head, models = torch.zeros(128, dtype=torch.uint8), torch.zeros(4_000_000, dtype=torch.float64)
        link.receive(head)
        link.receive(models[:2_000_000])
        assert models[:2_000_000].any(), "this is x^0 after all: the test tests nothing"
        link.send(reply(0, 0, torch.zeros(2_000_000, dtype=torch.float64)))
        while not len(star.server.available()):
            time.sleep(0.01)
        star.start(
            lambda: (
                link.receive(head),
                link.receive(models),
                link.send(reply(1, 0, models[:2_000_000] - models[2_000_000:])),
            )
        )
        assert torch.equal(values(star.ask()[0]), torch.full((2_000_000,), 2.0, dtype=torch.float64))  # 1 - (-1)


def test_nothing_is_left_behind() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    files = len(os.listdir("/proc/self/fd"))
    with Star(shape_of(3)) as star:
        star.start_honest(1, 2)  # the third never comes
        star.joined(1, 2)
        star.ask(full=True)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    del star
    assert len(os.listdir("/proc/self/fd")) <= files + 60  # gloo and the store close theirs lazily; no pipe a round


def enter_in(star: Star, rank: int) -> Link:
    """Join a star whose server listens meanwhile."""
    found: list[Link] = []
    star.start(lambda: found.append(enter(rank)))
    star.joined(rank)
    while not found:
        time.sleep(0.01)
    star._threads.pop().join()
    return found[0]
