"""The star's two ends with true gateways between them; workers are threads."""

import os
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import psutil
import pytest
import torch

from byzdist.errors import ConfigError, RunError
from byzdist.transport.star import keeper, link
from byzdist.transport.star import server as ends
from byzdist.transport.star.link import Link
from byzdist.transport.star.records import Report, ReportKind
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


def timers() -> dict[tuple[int, int], int]:
    """Return what timer the kernel runs on each TCP connection of this host, by its two ports; 2 keeps it alive (Linux)."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if os.path.exists(table):
            for line in open(table).readlines()[1:]:
                _, here, there, _, _, timer, *_ = line.split()
                ports = int(here.rpartition(":")[2], 16), int(there.rpartition(":")[2], 16)
                found[ports] = int(timer.partition(":")[0], 16)
    return found


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="reads the timers that Linux shows")
def test_the_kernel_asks_on_each_connection_whether_the_other_end_is_still_there() -> None:
    """An end that was cut off may never hear that the other one is gone (docker/try.sh does that to a real network)."""
    inherited = {connection.laddr for connection in psutil.Process().net_connections("tcp")}  # pytest's own
    with Star(shape_of(2)) as star:
        star.start_honest(1, 2)
        star.server.open()
        ours = [
            (connection.laddr.port, connection.raddr.port)
            for process in psutil.Process().children(recursive=True)
            if process.name() != "byzdist-store"  # which talks to itself, too
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_ESTABLISHED and connection.laddr not in inherited
        ]
        links = [pair for pair in ours if int(os.environ["MASTER_PORT"]) not in pair]
        assert len(links) >= 2 and len(ours) > len(links)
        both_ends = {*ours, *((there, here) for here, there in links)}
        until = time.monotonic() + 5.0  # another timer runs while something is on its way
        while any(timers()[pair] != 2 for pair in both_ends) and time.monotonic() < until:
            time.sleep(0.1)
        assert {timers()[pair] for pair in both_ends} == {2}


def test_bytes_are_those_of_the_messages() -> None:
    with Star(shape_of(2, dimension=5)) as star:
        star.start_honest(1, 2)
        star.server.open()
        star.ask(full=True)
        ids = 64  # room for two ids, rounded up
        assert star.replies.bytes_down == 2 * (64 + ids + 40)
        assert star.replies.bytes_up == 2 * (64 + 40)
        star.ask([1])  # holds x^{k-1}
        assert star.replies.bytes_down == 64 + ids + 40
        star.ask([0])  # does not, and gets it
        assert star.replies.bytes_down == 64 + ids + 80


def test_a_client_that_is_not_there_is_missing_at_once() -> None:
    with Star(shape_of(2)) as star:
        star.start_honest(1)
        star.joined(1)
        started = time.monotonic()
        replies = star.ask(full=True, deadline=60.0)
        assert time.monotonic() - started < 30
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
        assert 0.5 <= time.monotonic() - started < 1.0
        assert replies[1] == Missing("no reply by the deadline")
        assert star.ask(full=True)[1] == Missing("busy since round 0")
        assert star.server.available().tolist() == [0]
        request = torch.zeros(10_000, dtype=torch.uint8)
        link.receive(request)
        link.send(reply(0, 1, torch.full((10,), 7.0, dtype=torch.float64)))
        while 1 not in star.server.available():
            time.sleep(0.01)
        assert star.server.events[-1] == "client 1 answered round 0 too late"
        # What it is sent next holds x^{k-1} as well, and its answer counts again.
        star.start(lambda: (link.receive(request), link.send(reply(2, 1, torch.ones(10, dtype=torch.float64)))))
        replies = star.ask()
        assert torch.equal(values(replies[1]), torch.ones(10, dtype=torch.float64))


BAD: dict[str, Callable[[int, int, torch.Tensor], torch.Tensor]] = {
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


def answer_with(link: Link, message: torch.Tensor) -> None:
    link.receive(torch.zeros(10_000, dtype=torch.uint8))
    link.send(message)


def test_after_its_offences_a_worker_is_in_quarantine() -> None:
    with Star(shape_of(1), replace(TERMS, offences=2)) as star:
        link = enter_in(star, 1)
        for round_, reason in enumerate(("wrong checksum", "wrong checksum")):
            message = reply(round_, 0, torch.ones(10, dtype=torch.float64), checksum=5)
            star.start(partial(answer_with, link, message))
            assert star.ask(full=True) == {0: Missing(reason)}
        assert star.ask(full=True) == {0: Missing("quarantined: wrong checksum")}
        assert star.server.events[-2:] == [
            "client 0 is in quarantine after 2 offences, the last: wrong checksum",
            "worker 1 is in quarantine with all its clients",
        ]
        with pytest.raises(RunError, match="all 1 clients are in quarantine .* the reasons: wrong checksum"):
            star.server.available()
        with pytest.raises(RunError, match="worker rank 1: it is in quarantine, the last reason: wrong checksum"):
            enter(1)


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


def test_one_hostile_client_costs_nobody_else_on_its_worker() -> None:
    with Star(shape_of(2, clients=6), replace(TERMS, offences=2)) as star:
        star.start_honest(2)
        star.joined(2)
        link = enter_in(star, 1)  # hosts 0, 2 and 4

        def serve(rounds: list[int]) -> None:
            for round_ in rounds:
                link.receive(REQUEST)
                for client in (0, 2, 4) if round_ < 2 else (0, 4):
                    lie = {"checksum": 5} if client == 2 else {}
                    link.send(reply(round_, client, (client + 1) * float(round_) * ONES, **lie))

        star.start(partial(serve, [0, 1, 2]))
        for _ in range(2):
            assert star.ask(full=True)[2] == Missing("wrong checksum")
        assert star.server.available().tolist() == [0, 1, 3, 4, 5]
        assert star.server.events[-1] == "client 2 is in quarantine after 2 offences, the last: wrong checksum"
        replies = star.ask(full=True)
        assert replies.pop(2) == Missing("quarantined: wrong checksum")
        for client, payload in replies.items():
            assert torch.equal(values(payload), (client + 1) * 2.0 * ONES)
        star.server.blame(0, "not finite")
        snapshot = star.server.snapshot(2)
        assert snapshot == {
            "holders": [1, 2],
            "workers": [],
            "clients": [[2, 2, "wrong checksum"], [0, 1, ""]],
        }
    with Star(shape_of(3, clients=6), replace(TERMS, offences=2, min_replies=6)) as star:
        star.start_honest(1, 2, 3)
        star.server.open()
        star.server.resume(2, {"clients": snapshot["clients"]}, False)
        with pytest.raises(RunError, match="only 5 of 6 clients are not in quarantine .*reasons: wrong checksum"):
            star.server.available()
        star.server.blame(0, "not finite")
        assert star.server.events == ["client 0 is in quarantine after 2 offences, the last: not finite"]


def test_a_server_that_was_let_go_waits_for_nobody() -> None:
    with Star(shape_of(2), replace(TERMS, join_timeout=30.0, min_replies=2)) as star:
        star.start_honest(1)
        star.joined(1)
        star.start(lambda: (time.sleep(0.3), star.server.stop_waiting()))
        started = time.monotonic()
        assert star.server.available().tolist() == [0]
        assert time.monotonic() - started < 15


def test_a_message_that_nobody_asked_for_is_an_offence() -> None:
    with Star(shape_of(1), replace(TERMS, offences=2)) as star:
        began = time.monotonic()
        for _ in range(2):
            intruder = enter_in(star, 1)
            work = intruder._group.send([torch.zeros(1, dtype=torch.uint8)], 0, link._LIFE)
            until(star, lambda: star.server.events)
            del work
            assert star.server.events[0] == "worker 1 left: sent a message that nobody asked for"
        assert time.monotonic() - began > keeper._PAUSE, "the next gateway came in no time"
        assert star.server.events[1:] == [
            "worker 1 is in quarantine after 2 offences, the last: sent a message that nobody asked for"
        ]
        assert star.server.snapshot(0)["workers"] == [[1, 2, "sent a message that nobody asked for"]]


def test_what_gateways_tell_in_an_unlucky_order() -> None:
    with Star(shape_of(1)) as star:
        enter_in(star, 1)
        server, worker = star.server, star.server.members.workers[1]
        worker.round, worker.pending, worker.rows = 3, {0}, {0: 0}
        server.hear(Report(ReportKind.LOST, 1, worker.generation, text="silent"))
        assert worker.rows == {0: 0}, "its gateway may write there to its last moment"
        server.hear(Report(ReportKind.ENDED, 1, worker.generation))
        assert worker.rows == {}
        worker.state, worker.pending = "", {0}
        server.hear(Report(ReportKind.JOINED, 1, worker.generation + 1))
        assert worker.is_free


def test_a_system_without_room_for_a_process_is_asked_again() -> None:
    errors = [OSError(12, "no memory"), BlockingIOError()]

    def fork() -> int:
        if errors:
            raise errors.pop()
        return 42

    began = time.monotonic()
    assert keeper._fork(fork) == 42 and time.monotonic() - began > keeper._PAUSE


def test_a_limit_of_files_that_is_too_low_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 1024))
    with pytest.raises(ConfigError, match=r"1000 workers takes about 4100 open files, and this process may have 1024"):
        ends._make_room_for_files(1000)
