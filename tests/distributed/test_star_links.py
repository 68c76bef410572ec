"""Links of the star: who is let in, who comes back, and what ends a link that falls silent."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed import DistStoreError

from byzdist.errors import RunError
from byzdist.torch_private import Store, TCPStore
from byzdist.transport.keys import worker_key
from byzdist.transport.star import link
from byzdist.transport.star.handshake import HandshakeError, WorkerSide
from byzdist.transport.star.link import LinkLost, join, leave_note
from byzdist.transport.store import connect
from tests.support.star import (
    SECRET,
    TERMS,
    Missing,
    Star,
    enter_in,
    shape_of,
    truth,
    until,
    values,
)


def test_a_worker_that_comes_back_is_sent_both_models() -> None:
    with Star(shape_of(2)) as star:
        star.start_honest(1)
        star.joined(1)
        link = enter_in(star, 2)
        star.server.events.clear()
        del link  # the process group goes with it
        until(star, lambda: star.server.events)
        assert star.server.events == ["worker 2 left: connection closed"]
        star.start_honest(2)
        star.joined(2)
        star.ask(full=True)
        assert torch.equal(values(star.ask()[1]), truth(star, 1))


def test_a_live_link_is_not_displaced() -> None:
    with Star(shape_of(1)) as star:
        star.start_honest(1)
        star.joined(1)
        with pytest.raises(RunError, match="no server let worker rank 1 in within 1 s"):
            join(connect, 1, worker_key(SECRET, 1), 1.0)
        assert torch.equal(values(star.ask(full=True)[0]), truth(star, 0, full=True))


def test_nobody_joins_without_the_secret_or_as_somebody_else() -> None:
    with Star(shape_of(2)) as star:
        for key in (worker_key(b"another secret, long enough", 1), worker_key(SECRET, 2)):
            with pytest.raises(RunError, match="no server let"):
                join(connect, 1, key, 1.5)
        assert isinstance(star.ask(full=True)[0], Missing)
        star.start_honest(1)
        star.joined(1)


def test_what_the_store_shows_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger reads in the store where server and worker meet, and is there before the worker."""
    with Star(shape_of(1)) as star:
        store: Any = connect(5)  # the stub of torch knows only of strings
        side = WorkerSide(worker_key(SECRET, 1))
        store.set("1/hello", side.hello)
        proof, session, _ = side.prove(store.get(f"{side.store_key}/answer"))
        store.set(f"{side.store_key}/proof", proof)
        port = int(os.environ["MASTER_PORT"])
        everything = TCPStore("127.0.0.1", port, None, False, link.BRIEF, wait_for_workers=False)
        prefixes: set[str] = set()
        until = time.monotonic() + 20.0
        while not prefixes and time.monotonic() < until:
            prefixes = set(re.findall(r"byzdist/0/0/([0-9a-f]{64})/", " ".join(everything.list_keys())))
        (prefix,) = prefixes
        assert prefix != session.hex()
        monkeypatch.setattr(link, "meeting_prefix", bytes.hex)
        with pytest.raises((HandshakeError, LinkLost)):
            link._open(store, bytes.fromhex(prefix), 1)
        monkeypatch.undo()
        star.start_honest(1)
        star.joined(1)


def test_a_hello_from_a_dead_process_holds_up_nobody() -> None:
    with Star(shape_of(1)) as star:
        store: Any = connect(5)  # the stub of torch knows only of strings
        side = WorkerSide(worker_key(SECRET, 1))
        store.set("1/hello", side.hello)
        store.get(f"{side.store_key}/answer")
        started = time.monotonic()
        star.start_honest(1)
        star.joined(1)
        assert time.monotonic() - started < 8


@pytest.mark.parametrize("what", ["a request", "the order to resume"])
def test_a_silent_link_is_closed_and_its_worker_comes_back(what: str) -> None:
    with Star(shape_of(2), replace(TERMS, deadline=0.2, join_timeout=0.8)) as star:
        star.start_honest(1)
        star.joined(1)
        link = enter_in(star, 2)
        if what == "a request":
            assert star.ask(full=True, deadline=0.2)[1] == Missing("no reply by the deadline")
        else:
            star.server.resume(0, {}, True)
        until(star, lambda: "worker 2 left: silent" in star.server.events)
        del link
        star.start_honest(2)
        star.joined(2)
        assert torch.equal(values(star.ask(full=True)[1]), truth(star, 1, full=True))


def test_a_worker_that_is_stopped_while_a_large_model_comes_costs_only_itself() -> None:
    with Star(shape_of(2, dimension=2_000_000), replace(TERMS, deadline=0.3, join_timeout=1.0)) as star:
        star.start_honest(1)
        star.joined(1)
        frozen = subprocess.Popen(
            [sys.executable, "-c", "from tests.distributed import test_star_orders as t; t.freeze(2)"]
        )
        try:
            star.joined(2, patience=30)
            for _ in range(3):
                replies = star.ask(full=True, deadline=3.0)
                assert isinstance(replies[0], torch.Tensor) and isinstance(replies[1], Missing)
            until(star, lambda: "worker 2 left: silent" in star.server.events)
        finally:
            frozen.kill()
            frozen.wait()


def test_a_key_that_vanishes_between_two_looks_is_not_there() -> None:
    class Vanishing(Store):
        def check(self, keys: list[str]) -> bool:
            return True

        def get(self, key: str) -> bytes:
            raise DistStoreError("wait timeout after 5000ms")

    assert link.read_note(Vanishing(), 1, worker_key(SECRET, 1), "an attempt") is None


def test_a_worker_that_hangs_ends_with_the_run_but_no_note_ends_one_that_has_a_link() -> None:
    script = (
        "import time; from tests.support.star import *; "
        "worker = StarWorker(shape_of(1), 1, worker_key(SECRET, 1), connect, 30.0); "
        "worker.open(); worker.end_with_the_run(0.1); time.sleep(60)"
    )
    with Star(shape_of(1)) as star, subprocess.Popen([sys.executable, "-c", script]) as worker:
        star.joined(1, patience=30)
        store = connect(10)
        for attempt in ("another attempt", star.server.attempt):
            leave_note(store, 1, worker_key(SECRET, 1), attempt, link.END)
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(1.5)
        star.server.stop()
        assert worker.wait(30) == 0
        star.server.stop = lambda: None  # type: ignore[method-assign]
