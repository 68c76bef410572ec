"""Orders on the star: to save what clients remember, and to go on with what they remembered."""

import os
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from byzdist.config.schema import Checkpoints
from byzdist.errors import RunError
from byzdist.storage.checkpoint import read_checkpoint, rounds
from byzdist.storage.saving import ServerSaver
from byzdist.transport.base import Resume, Save
from byzdist.transport.star.link import Link, LinkLost
from byzdist.transport.wire import Header, Stage
from tests.support.star import (
    ONES,
    REQUEST,
    TERMS,
    Star,
    answer,
    enter,
    enter_in,
    shape_of,
    until,
    values,
)


def freeze(rank: int) -> None:
    """Join, post the receives of a request, and take nothing of it."""
    link = enter(rank)
    work = [link.post_receive(torch.zeros(size, dtype=torch.uint8)) for size in (10_000, 16_000_000)]
    os.kill(os.getpid(), 19)
    del work


def test_a_worker_that_comes_late_learns_that_the_run_goes_on() -> None:
    orders: dict[int, list[Save | Resume]] = {rank: [] for rank in (1, 2, 3)}
    with Star(shape_of(3)) as star:
        star.start_honest(1, orders=orders[1])
        star.joined(1)
        star.round = 7
        star.server.resume(7, {"holders": [1]}, True)
        star.start_honest(2, orders=orders[2])
        star.joined(2)
        link = enter_in(star, 3)
        link.receive(REQUEST)  # the order to resume
        until(star, lambda: not star.server.orders.progress[3].is_busy)
        del link
        until(star, lambda: "worker 3 left: connection closed" in star.server.events)
        star.start_honest(3, orders=orders[3])  # what its clients remember may be newer by now
        star.joined(3)
        for client, payload in star.ask().items():
            assert torch.equal(values(payload), (client + 1) * 8.0 * ONES), client  # the server's model was 0
        assert orders == {1: [Resume(7)], 2: [Resume(7)], 3: []}


def test_workers_save_or_fail() -> None:
    with Star(shape_of(4), replace(TERMS, deadline=0.5, join_timeout=0.5)) as star:
        star.start_honest(1)
        star.joined(1)
        links = {rank: enter_in(star, rank) for rank in (2, 3, 4)}

        def write_for_ever() -> None:
            for _ in range(3):
                links[2].receive(REQUEST)
                links[2].send(answer(5, 0))

        star.start(write_for_ever)
        star.start(lambda: (links[3].receive(REQUEST), links[3].send(answer(5, 2))))
        star.start(lambda: (links[4].receive(REQUEST), links[4].send(answer(4, 1))))
        order = Save(5, 0)
        star.server.save(order)
        until(star, lambda: star.server.unsaved() == [2])
        for _ in range(2):
            star.server.save(order)
            until(star, lambda: not star.server.orders.progress[2].is_busy)
        until(star, lambda: not star.server.unsaved())
        assert star.server.end_save() == [2, 3, 4]
        assert {text for text in star.server.events if not text.endswith("joined")} == {
            "worker 3 did not save what its clients remember: saving failed, see its log",
            "worker 4 left: sent something other than an answer about the checkpoint of round 5",
            "worker 2 did not save what its clients remember: it takes too long",
        }
        assert [entry[:2] for entry in star.server.snapshot(5)["workers"]] == [[2, 1], [3, 1], [4, 1]]


def fail_to_save(link: Link) -> None:
    link.receive(REQUEST)
    link.send(answer(5, Stage.FAILED))


def test_parts_that_most_workers_cannot_save_are_nobodys_offence() -> None:
    with Star(shape_of(3)) as star:
        star.start_honest(1)
        links = {rank: enter_in(star, rank) for rank in (2, 3)}
        for link in links.values():
            star.start(partial(fail_to_save, link))
        star.server.save(Save(5, 0))
        until(star, lambda: not star.server.unsaved())
        assert star.server.end_save() == [2, 3]
        assert star.server.snapshot(5)["workers"] == []


@pytest.mark.parametrize("conduct", ["fails", "writes for ever", "is silent"])
def test_no_worker_keeps_a_run_from_having_checkpoints(conduct: str, tmp_path: Path) -> None:
    """One that never saves costs its own part and is in quarantine for it; a later checkpoint waits for it no more."""
    terms = replace(TERMS, deadline=0.2, join_timeout=0.4, offences=2)
    with Star(shape_of(3), terms) as star:
        star.start_honest(1, 2)
        star.joined(1, 2)
        stages = {"fails": Stage.FAILED, "writes for ever": Stage.WRITING}

        def never_save() -> None:
            with suppress(RunError):
                while True:
                    link = enter(3)
                    with suppress(LinkLost):
                        while True:
                            link.receive(REQUEST)
                            if conduct in stages:
                                link.send(answer(Header.read(REQUEST).round, stages[conduct]))

        star.start(never_save)
        settings = Checkpoints(every=1, minutes="none", keep=9)
        saver = ServerSaver(tmp_path, "a run", settings, {}, star.server, lambda: None)
        for round_ in (1, 2, 3):
            until(star, lambda: round_ == 3 or not star.server.members.workers[3].state)  # noqa: B023
            began = time.monotonic()
            while round_ not in rounds(tmp_path):
                assert saver.after(round_, lambda: ({"x": ONES}, {})) is None
                assert time.monotonic() - began < 10, star.server.events
                star.server.listen(0.01)
            saver.after(round_, lambda: ({"x": ONES}, {}))
        assert [read_checkpoint(path).facts["missing"] for path in rounds(tmp_path).values()] == [[3], [3], [3]]
        ((rank, offences, reason),) = star.server.snapshot(3)["workers"]
        assert (rank, offences) == (3, 2) and reason.startswith("did not save: ")
        assert sum(text.startswith("worker 3 did not save") for text in star.server.events) == 2
        saver.finish(3, lambda: ({"x": ONES}, {}))
