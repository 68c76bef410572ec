"""The job's store: where it listens, that it is restarted, and that no rank believes what is in it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import psutil
import pytest
import torch

from byzdist.errors import RunError
from byzdist.transport import store
from byzdist.transport.keys import worker_key
from byzdist.transport.star import link
from byzdist.transport.star.handshake import ServerSide, WorkerSide, seal
from byzdist.transport.star.link import END, join, leave_note, read_note
from byzdist.transport.store import NoStore, connect
from tests.support.harness import free_port
from tests.support.star import SECRET, TERMS, Star, meet_at, shape_of, truth, values

KEY = worker_key(SECRET, 1)


def processes() -> list[psutil.Process]:
    """Return the keeper of this process's store, and the store."""
    return [it for it in psutil.Process().children(recursive=True) if it.name() == "byzdist-store"]


def until(is_so: Callable[[], object], patience: float = 10.0) -> None:
    end = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch):
    """Host a store at an address; return the addresses at which its processes listen.

    Its processes also inherit sockets of pytest's own: with ``-n 0`` pytest-rerunfailures listens at another port of 127.0.0.1.
    """
    ends = []

    def start(address: str) -> set[str]:
        port = free_port()
        meet_at(port)
        monkeypatch.setenv("MASTER_ADDR", address)
        ends.append(store.host(2))
        until(lambda: len(processes()) == 2)
        connect(10).set("a", "b")
        found = [it.net_connections("tcp") for it in processes()]
        return {c.laddr.ip for them in found for c in them if c.status == psutil.CONN_LISTEN and c.laddr.port == port}

    yield start
    for end in ends:
        end()
    assert not processes()


def own_addresses() -> list[str]:
    found = [it.address for them in psutil.net_if_addrs().values() for it in them if it.family == socket.AF_INET]
    return sorted(found)


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", *(it for it in own_addresses() if it[:4] != "127.")])
def test_the_store_listens_at_its_address_alone(hosted, address: str) -> None:
    heard = hosted(address)
    assert heard == {address} if address != "localhost" else heard <= {"127.0.0.1", "::1"}, heard


def test_an_address_of_something_in_between_is_served_all_the_same(
    hosted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as the one of a load balancer, which passes connections on."""
    bind, asked = store._bind, []

    def refuse_first(listening: socket.socket, address: object) -> socket.socket:
        asked.append(address)
        if len(asked) == 1:
            raise OSError(99, "Cannot assign requested address")
        return bind(listening, address)

    monkeypatch.setattr(store, "_bind", refuse_first)
    assert hosted("127.0.0.1") == {"0.0.0.0"}
    assert "is not an address of this host: the store listens at all of its addresses" in caplog.text


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        meet_at(taken.getsockname()[1])
        with pytest.raises(RunError, match=rf"127.0.0.1:{taken.getsockname()[1]}: Address already in use"):
            store.host(1)


def test_no_store_in_time_is_an_error_that_names_the_place() -> None:
    meet_at(free_port())
    began = time.monotonic()
    with pytest.raises(NoStore, match=r"127\.0\.0\.1:\d+: Connection refused"):
        connect(0.3)
    assert time.monotonic() - began < 30


def test_a_store_that_dies_comes_back_at_the_same_place_and_a_worker_joins_later() -> None:
    with Star(shape_of(2)) as star:
        star.start_honest(1)
        star.joined(1)
        keeper, first = sorted(processes(), key=lambda it: it.pid)
        for _ in range(3):
            (now,) = [it for it in processes() if it.pid != keeper.pid]
            now.send_signal(signal.SIGKILL)
            until(lambda: [it for it in processes() if it.pid not in (keeper.pid, now.pid)])  # noqa: B023
        assert torch.equal(values(star.ask(full=True)[0]), truth(star, 0, full=True))
        star.start_honest(2)
        star.joined(2)
        assert "worker 1 left" not in str(star.server.events)
        assert torch.equal(values(star.ask(full=True)[1]), truth(star, 1, full=True))


def test_the_store_takes_no_more_than_its_limits_and_goes_first() -> None:
    with Star(shape_of(2)):
        until(lambda: len(processes()) == 2)
        _, process = sorted(processes(), key=lambda it: it.pid)
        connect(10)
        space, _ = process.rlimit(psutil.RLIMIT_AS)
        assert 0 < space - process.memory_info().vms < 300 << 20
        assert process.rlimit(psutil.RLIMIT_NOFILE)[0] == 16 * 2 + 256
        assert open(f"/proc/{process.pid}/oom_score_adj").read() == "1000\n"


def test_the_store_dies_with_its_server() -> None:
    script = (
        "import os, time; from tests.support.star import meet_at; from byzdist.transport.store import host, connect; "
        f"meet_at({free_port()}); host(1); connect(10); print('there', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"there\n"
        theirs = psutil.Process(server.pid).children(recursive=True)
        assert len(theirs) == 2
        server.kill()
        server.wait()
        _, alive = psutil.wait_procs(theirs, 10)
        assert not [it for it in alive if it.status() != psutil.STATUS_ZOMBIE]


def poison(rank: int, stop: threading.Event) -> None:
    """Overwrite whatever is there, again and again, with what is nearly right."""
    mine: Any = connect(10)  # the stub of torch knows only of strings
    old = WorkerSide(KEY)
    replayed = ServerSide(KEY, old.hello, link.welcome("an earlier attempt", "{}")).answer
    while not stop.is_set():
        for text in (b"", b"\xff" * 5, replayed, os.urandom(64)):
            mine.set(f"{rank}/hello", text)
            mine.set(f"{rank}/closed", text)
            mine.set(f"{rank}/closed", seal(KEY, "an earlier attempt", END))
            for key in ("configuration", "facts", "run", "links"):
                mine.set(key, text)
        time.sleep(0.05)


def test_poison_in_the_store_keeps_nobody_out_and_ends_nobody() -> None:
    stop = threading.Event()
    with Star(shape_of(1)) as star:
        stranger = threading.Thread(target=poison, args=(1, stop))
        stranger.start()
        try:
            star.start_honest(1, patience=30)
            star.joined(1, patience=30)
            for _ in range(20):
                assert torch.equal(values(star.ask(full=True)[0]), truth(star, 0, full=True))
        finally:
            stop.set()
            stranger.join()


def test_a_false_answer_is_reported_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A stranger's answer stands in the store when the worker looks, twice: one that was overheard. Who is first there is a race."""
    with Star(shape_of(1)) as star:
        overheard = ServerSide(KEY, WorkerSide(KEY).hello, link.welcome("an attempt", "facts")).answer
        answered = []

        class Deceived(WorkerSide):
            def prove(self, answer: bytes) -> tuple[bytes, bytes, bytes]:
                if len(answered) < 2:
                    answered.append(answer)
                    answer = overheard
                return super().prove(answer)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(link, "WorkerSide", Deceived)
            star.start_honest(1)
            star.joined(1)
        assert caplog.text.count("somebody else answered in the server's place") == 2


def test_a_note_of_another_life_or_key_is_no_note() -> None:
    with Star(shape_of(2)) as star:
        mine, attempt = connect(10), star.server.attempt
        for key, of in ((KEY, "another attempt"), (worker_key(SECRET, 2), attempt)):
            leave_note(mine, 1, key, of, END)
            assert read_note(mine, 1, KEY, attempt) is None
        leave_note(mine, 1, KEY, attempt, END)
        assert read_note(mine, 1, KEY, attempt) == END
        star.start_honest(1)  # it has not joined in this attempt, so that a note, whoever wrote it, says nothing to it
        star.joined(1)


def test_a_worker_without_a_link_heeds_the_note_of_its_life() -> None:
    with Star(shape_of(2)) as star:
        leave_note(connect(10), 1, KEY, star.server.attempt, END)
        assert join(connect, 1, KEY, 10.0, attempt=star.server.attempt) is None


def test_a_worker_in_quarantine_is_told_so_as_often_as_it_asks(caplog: pytest.LogCaptureFixture) -> None:
    with Star(shape_of(2), replace(TERMS, offences=1)) as star:
        star.start_honest(2)
        star.joined(2)
        star.server.blame(0, "not finite")
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert "client 0 is in quarantine after 1 offences, the last: not finite" in warned
        for _ in range(2):
            with pytest.raises(RunError, match="worker rank 1: it is in quarantine, the last reason: not finite"):
                join(connect, 1, KEY, 10.0)
        assert torch.equal(values(star.ask(full=True)[1]), truth(star, 1, full=True))


def test_workers_are_told_what_the_server_says_of_the_run_and_see_when_the_link_breaks() -> None:
    found = list[link.Joined | None]()
    with Star(shape_of(1)) as star:
        star.start(lambda: found.append(join(connect, 1, KEY, 10.0)))
        star.joined(1)
        star._threads.pop().join()
        (joined,) = found
        assert joined is not None and (joined.facts, joined.attempt) == ("facts", star.server.attempt)
        assert joined.link.is_open
        gateway = next(it for it in psutil.Process().children(recursive=True) if it.name() == "byzdist-g1")
        gateway.send_signal(signal.SIGKILL)
        until(lambda: not joined.link.is_open)


def test_a_worker_that_is_told_to_leave_stops_waiting_for_a_store() -> None:
    meet_at(free_port())
    stays = iter([True])
    began = time.monotonic()
    assert join(connect, 1, KEY, 1.0, stays=partial(next, stays, False), store_patience=300.0) is None
    assert time.monotonic() - began < 100
