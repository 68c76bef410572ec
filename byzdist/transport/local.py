"""Server and clients in one process and one thread: for a notebook, a debugger, a sweep, or a test. Nothing travels."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from byzdist.rounds import Payloads, Replies
from byzdist.transport.base import (
    Received,
    Reply,
    Request,
    Resume,
    Save,
    Shape,
    WorkerEnd,
)
from byzdist.transport.present import PresentClients
from byzdist.transport.reply_rows import ReplyRows
from byzdist.transport.wire import HAS_MODEL, HAS_PREVIOUS, HEADER_BYTES, Kind, Stage

Handle = Callable[[Received | Save | Resume, WorkerEnd], None]


class LocalServer(PresentClients):
    """The server's end: a request is answered by calls, when its replies are collected.

    The bytes of a round are those that it would have sent to its workers and received from them.

    Args:
        offences: how many replies of a client that are not finite lead to quarantine.
    """

    def __init__(self, shape: Shape, offences: int) -> None:
        super().__init__(shape.clients, offences)
        self._shape = shape
        self.frame = shape.frame()
        self._bytes_down = 0
        self._worker_end = LocalWorker(shape)
        self._workers: Sequence[Handle] = ()
        self._request: Request
        self._saving = -1  # the round of the last order to save
        self._stages = list[Stage]()  # how far each worker is with it

    def connect(self, *workers: Handle) -> None:
        """Set the workers' own methods, which answer requests and orders, rank by rank from 1 on."""
        assert len(workers) == self._shape.workers
        self._workers, self._stages = workers, [Stage.SAVED] * len(workers)

    def send(self, request: Request) -> None:
        """See `ServerEnd.send`."""
        self._request = request
        round_, clients = request.round, self._shape.clients
        kind = Kind.FULL if round_.full else Kind.SAMPLED
        flags = HAS_MODEL | (HAS_PREVIOUS if request.needs_previous else 0)
        everyone, afresh = len(round_.cohort) == clients, request.afresh
        parts = self.frame.pack(kind, round_.number, round_.cohort, everyone=everyone, flags=flags, afresh=afresh)
        self._bytes_down = sum(part.nbytes for part in parts)

    def collect(self, deadline: float) -> Replies:
        """Compute the replies, however long that takes; see `ServerEnd.collect`."""
        round_, end, ranks = self._request.round, self._worker_end, set[int]()
        missing = self.excluded(round_.cohort)
        current, previous = end.begin(self.frame.current, self.frame.previous)
        # In the order of clients, not of ranks: attackers need the messages of the honest clients, whose ids come before theirs.
        for rank, hosted in groupby(round_.cohort.tolist(), self._shape.rank):
            mine = [client for client in hosted if client not in missing]
            self._workers[rank - 1](Received(round_, mine, current, previous, afresh=self._request.afresh), end)
            ranks.add(rank)
        return Replies(
            end.payloads(self._request.length), missing, end.afresh, self._bytes_down * len(ranks), end.bytes
        )

    def resume(self, round_: int, snapshot: dict[str, Any], everyone: bool) -> None:
        """See `ServerEnd.resume`."""
        super().resume(round_, snapshot, everyone)
        if everyone:
            for handle in self._workers:
                handle(Resume(round_), self._worker_end)

    def save(self, order: Save) -> None:
        """See `ServerEnd.save`."""
        if order.round != self._saving:
            self._saving, self._stages = order.round, [Stage.WRITING] * len(self._workers)
        for index, handle in enumerate(self._workers):
            if self._stages[index] is Stage.WRITING:
                handle(order, self._worker_end)
                self._stages[index] = self._worker_end.stage

    def unsaved(self) -> list[int]:
        """See `ServerEnd.unsaved`."""
        return [rank for rank, stage in enumerate(self._stages, 1) if stage is Stage.WRITING]

    def end_save(self) -> list[int]:
        """See `ServerEnd.end_save`."""
        return [rank for rank, stage in enumerate(self._stages, 1) if stage is not Stage.SAVED]

    def stop(self) -> None:
        """See `ServerEnd.stop`."""


class LocalWorker(WorkerEnd):
    """A worker's end: its replies go to rows that lie in memory as those of a real transport do.

    Attributes:
        afresh: the round's, as in `Replies`.
        bytes: of the round's replies.
        stage: the last answer to an order.
    """

    def __init__(self, shape: Shape) -> None:
        self._current, self._previous = (
            torch.zeros(shape.dimension, dtype=shape.dtype, device=shape.device, pin_memory=shape.pinned)
            for _ in range(2)  # apart, so that each begins on a cache line; see `Flat.bind`
        )
        self._rows = ReplyRows.make(shape.max_cohort, shape.max_payload, shape.device, shape.pinned)
        self._clients = list[int]()
        self.afresh = set[int]()
        self.bytes = 0
        self.stage = Stage.SAVED

    def begin(self, current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Begin a round: forget the replies of the one before, and return copies of both models, which clients may spoil."""
        self._clients, self.afresh, self.bytes = [], set(), 0
        return self._current.copy_(current), self._previous.copy_(previous)

    def payloads(self, length: int) -> Payloads:
        """Return the payloads of the round, ``length`` bytes each."""
        return Payloads(self._clients, self._rows.first_payloads(len(self._clients), length))

    def receive(self) -> Received | Save | Resume | None:
        """Never called, because the server calls the workers."""
        raise AssertionError("the workers of a local run are called")

    def room(self, length: int) -> Tensor:
        """See `WorkerEnd.room`."""
        return self._rows[len(self._clients)].room(length)

    def reply(self, reply: Reply) -> None:
        """See `WorkerEnd.reply`."""
        assert reply.forge is None, "checks.py refuses attacks on the wire here"
        self._clients.append(reply.client)
        if reply.afresh:
            self.afresh.add(reply.client)
        self.bytes += HEADER_BYTES + reply.payload.nbytes

    def answer(self, order: Save, stage: Stage) -> None:
        """See `WorkerEnd.answer`."""
        self.stage = stage
