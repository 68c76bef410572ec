"""What it costs a run if workers of the star are always late, or were late once."""

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch

from byzdist.transport.star.link import LinkLost
from byzdist.transport.wire import Header
from tests.support.star import (
    ONES,
    REQUEST,
    TERMS,
    Missing,
    Star,
    enter,
    enter_in,
    reply,
    shape_of,
    truth,
    until,
    values,
)


def late_by(star: Star, rank: int, seconds: float) -> None:
    """Be a worker with one client, and answer each request so long after it came."""
    link = enter(rank)
    with suppress(LinkLost):
        while True:
            link.receive(REQUEST)
            time.sleep(seconds)
            link.send(reply(Header.read(REQUEST).round, rank - 1, ONES))


def test_a_worker_that_is_always_a_little_too_late_slows_a_run_down_by_no_more_than_its_share() -> None:
    deadline, share = 0.2, 0.1
    with Star(shape_of(3), replace(TERMS, deadline=deadline, late_share=share)) as star:
        star.start_honest(1, 2)
        star.start(lambda: late_by(star, 3, deadline + 0.02))
        star.joined(1, 2, 3)
        began, vain, asked = time.monotonic(), 0.0, []
        while time.monotonic() - began < 3.0:
            cohort = star.server.available().tolist()
            sent = time.monotonic()
            replies = star.ask(cohort, full=True, deadline=deadline)
            if 2 in replies:
                asked.append(sent - began)
                vain += time.monotonic() - sent
            assert all(torch.equal(values(replies[client]), truth(star, client, full=True)) for client in (0, 1))
        elapsed = time.monotonic() - began
        assert vain <= 3 * deadline + share * elapsed + 0.1 * len(asked), asked
        assert len(asked) >= 4, "it got its chances nevertheless"
        assert any(text.startswith("worker 3 is late too often and is not asked for") for text in star.server.events)


def test_a_worker_that_was_late_and_has_recovered_takes_part_as_before() -> None:
    with Star(shape_of(3), replace(TERMS, deadline=0.2, late_share=0.1)) as star:
        star.start_honest(1, 2)
        star.joined(1, 2)
        link, rounds_ = enter_in(star, 3), 30

        def recover() -> None:
            for turn in range(3 + rounds_):
                link.receive(REQUEST)
                time.sleep(0.25 if turn < 3 else 0.0)
                link.send(reply(Header.read(REQUEST).round, 2, ONES))

        star.start(recover)
        while not star.server.members.resting:
            star.ask(star.server.available().tolist(), full=True, deadline=0.2)
        rested = time.monotonic()
        until(star, lambda: 2 in star.server.available())
        assert 0.5 < time.monotonic() - rested < 0.2 / 0.1 + 2.0
        for _ in range(rounds_):
            until(star, lambda: 2 in star.server.available())
            assert torch.equal(values(star.ask(full=True)[2]), ONES)


def test_where_most_workers_are_late_nobody_rests() -> None:
    """It is the deadline then that is wrong."""
    with Star(shape_of(3), replace(TERMS, deadline=0.1, late_share=0.01)) as star:
        for rank in (1, 2, 3):
            star.start(partial(late_by, star, rank, 0.13))
        star.joined(1, 2, 3)
        for _ in range(8):
            until(star, lambda: len(star.server.available()) >= 2)
            star.ask(star.server.available().tolist(), full=True, deadline=0.1)
        assert len(star.server.members.resting) == 1
        star.server.members.terms = replace(star.server.members.terms, min_replies=3)
        until(star, lambda: len(star.server.available()) == 3)


def test_a_late_reply_is_kept_for_the_next_round_where_that_is_wanted() -> None:
    for keeps in (True, False):
        with Star(shape_of(2), replace(TERMS, keeps_late=keeps)) as star:
            star.start_honest(1)
            star.joined(1)
            link = enter_in(star, 2)
            assert isinstance(star.ask(full=True, deadline=0.2)[1], Missing)
            link.receive(REQUEST)
            assert isinstance(star.ask(deadline=0.2)[1], Missing), "it is busy"
            assert star.replies.late == {}
            link.send(reply(0, 1, 3 * ONES))
            until(star, lambda: 1 in star.server.available())
            assert star.ask([0]).keys() == {0} and list(star.replies.late) == [1] * keeps
            if keeps:
                late = star.replies.late[1]
                assert late.round.number == 0 and late.round.full and torch.equal(values(late.payload), 3 * ONES)
                star.ask([0])
                assert star.replies.late == {}, "it is handed over once"
