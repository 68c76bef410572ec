"""A star in a few lines, for tests: a true server with its gateways, and workers that are threads, or what a test provides."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzdist.errors import RunError
from byzdist.rounds import Round
from byzdist.transport.base import Received, Reply, Request, Resume, Save, Shape
from byzdist.transport.keys import worker_key
from byzdist.transport.star.link import Link, join
from byzdist.transport.star.membership import Terms
from byzdist.transport.star.server import StarServer
from byzdist.transport.star.worker import StarWorker
from byzdist.transport.store import Connect, connect, host
from byzdist.transport.wire import Header, Kind, Stage, bare_message, checksum
from tests.support.harness import free_port

SECRET = b"a secret of the tests"
REQUEST = torch.zeros(10_000, dtype=torch.uint8)
ONES = torch.ones(10, dtype=torch.float64)
TERMS = Terms(deadline=5.0, join_timeout=10.0, min_replies=1, offences=3, late_share=1.0)


def shape_of(workers: int, *, clients: int | None = None, dimension: int = 10) -> Shape:
    clients = clients or workers
    return Shape(
        seed=0,
        clients=clients,
        workers=workers,
        dimension=dimension,
        sampled=clients,
        max_cohort=clients,
        max_payload=8 * dimension,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )


def meet_at(port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


@dataclass(frozen=True)
class Missing:
    """Why there is no reply from a client."""

    reason: str


class Star:
    """The server's end; no worker joins by itself."""

    def __init__(
        self,
        shape: Shape,
        terms: Terms = TERMS,
        processes: bool = False,
        connect: Connect = connect,
    ) -> None:
        """``processes``: also start an honest worker process for each rank; ``connect``: of the gateways."""
        meet_at(free_port())
        self._processes = [_fork_honest(shape, rank) for rank in range(1, shape.workers + 1)] if processes else []
        keys = {rank: worker_key(SECRET, rank) for rank in range(1, shape.workers + 1)}
        self.shape = shape
        self._end_store = host(shape.workers)
        self.server = StarServer(shape, terms, keys, connect, "facts")
        self.round = -1
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Star":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self._end_store()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a worker did not end with the run"
        for pid in self._processes:
            os.waitpid(pid, 0)

    def start(self, action: Callable[[], object]) -> None:
        """Run a worker in a thread."""
        self._threads.append(threading.Thread(target=action, daemon=True))
        self._threads[-1].start()

    def start_honest(self, *ranks: int, patience: float = 10.0, orders: list[Save | Resume] | None = None) -> None:
        for rank in ranks:
            self.start(partial(serve, self.shape, rank, patience, orders))

    def ask(
        self, cohort: list[int] | None = None, *, full: bool = False, deadline: float = 5.0
    ) -> dict[int, Tensor | Missing]:
        """Run a round; the model holds the round's number."""
        self.round += 1
        server = self.server
        server.frame.previous.copy_(server.frame.current)
        server.frame.current.fill_(float(self.round))
        ids = np.arange(self.shape.clients) if cohort is None else np.array(cohort)
        server.send(Request(Round(self.round, 0, full, ids), 8 * self.shape.dimension, not full))
        self.replies = server.collect(deadline)
        missing: dict[int, Tensor | Missing] = {
            client: Missing(reason) for client, reason in self.replies.missing.items()
        }
        return dict(sorted({**self.replies.payloads, **missing}.items()))

    def joined(self, *ranks: int, patience: float = 10.0) -> None:
        """Wait until workers have joined since the last time this was asked."""
        waiting = {f"worker {rank} joined" for rank in ranks}
        while waiting := waiting - set(self.server.events):
            assert self.server.listen(patience), f"{waiting} never happened"
        self.server.events.clear()


def _fork_honest(shape: Shape, rank: int) -> int:
    if not (pid := os.fork()):
        torch.set_num_threads(1)
        serve(shape, rank, patience=300)
        os._exit(0)
    return pid


def serve(shape: Shape, rank: int, patience: float = 10.0, orders: list[Save | Resume] | None = None) -> None:
    """Be an honest worker: client c answers (c + 1) times the model, in sampled rounds the difference of the models.

    ``orders`` takes up what else it was told.
    """
    worker = StarWorker(shape, rank, worker_key(SECRET, rank), connect, patience)
    with suppress(RunError):
        while (received := worker.receive()) is not None:
            if not isinstance(received, Received):
                if orders is not None:
                    orders.append(received)
                if isinstance(received, Save):
                    worker.answer(received, Stage.SAVED)
                continue
            vector = received.x if received.round.full else received.x - received.previous
            for client in received.round.cohort[received.round.cohort % shape.workers + 1 == rank].tolist():
                payload = worker.room(8 * shape.dimension)
                payload.view(torch.float64).copy_(vector * (client + 1))
                worker.reply(Reply(received.round, client, payload))


def truth(star: Star, client: int, *, full: bool = False) -> Tensor:
    """Return what an honest client answers in the last round."""
    step = float(star.round) if full else (1.0 if star.round else 0.0)
    return torch.full((star.shape.dimension,), step * (client + 1), dtype=torch.float64)


def values(reply: Tensor | Missing) -> Tensor:
    assert isinstance(reply, Tensor), reply
    return reply.view(torch.float64)


def enter(rank: int) -> Link:
    """Join as a worker that then does what it likes."""
    joined = join(connect, rank, worker_key(SECRET, rank), 10.0)
    assert joined is not None
    return joined.link


def reply(round_: int, client: int, payload: Tensor, **header: Any) -> Tensor:
    """Return a well-formed reply, but for what ``header`` changes."""
    message = torch.cat([torch.zeros(64, dtype=torch.uint8), payload.view(torch.uint8)])
    fields = {"length": payload.nbytes, "checksum": checksum(payload.view(torch.uint8)), "kind": Kind.REPLY, **header}
    Header(fields["kind"], round_, client, 0, fields["length"], fields["checksum"]).write(message)
    return message


def answer(round_: int, stage: int) -> Tensor:
    """Return the answer to an order to save."""
    return bare_message(Kind.SAVED, round_, stage)


def enter_in(star: Star, rank: int) -> Link:
    """Join a star whose server listens meanwhile."""
    found: list[Link] = []
    star.start(lambda: found.append(enter(rank)))
    star.joined(rank)
    while not found:
        time.sleep(0.01)
    star._threads.pop().join()
    return found[0]


def until(star: Star, is_so: Callable[[], object], patience: float = 10.0) -> None:
    """Let the server listen until something is so."""
    end = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < end, (star.server.events, star.server.members.workers)
        star.server.listen(0.1)
