"""Server and clients in one process and one thread: for a notebook, a debugger, a sweep, or a test. Nothing travels."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from byzdist.rounds import Replies, Round
from byzdist.transport.base import (
    Forge,
    Received,
    Request,
    Resume,
    Save,
    ServerEnd,
    Shape,
    WorkerEnd,
    reply_rows,
)
from byzdist.transport.wire import AFRESH, HAS_MODEL, HAS_PREVIOUS, HEADER_BYTES, Kind, Stage

log = logging.getLogger(__name__)
Handle = Callable[[Received | Save | Resume, WorkerEnd], None]


class LocalServer(ServerEnd):
    """The server's end: a request is answered by a call, when its replies are collected.

    What a round would have sent to and received from one worker is counted as its bytes.

    Args:
        offences: how many replies of a client that are not finite lead to quarantine.
    """

    def __init__(self, shape: Shape, offences: int) -> None:
        assert shape.workers == 1
        self._shape, self._allowed = shape, offences
        self.frame = shape.frame()
        self._bytes_down = 0
        self.news: list[str] = []
        self._worker = _LocalWorker(shape)
        self._handle: Handle
        self._request: Request
        self._offences = Counter[int]()
        self._quarantine: dict[int, str] = {}  # by client: its last offence
        self._saving, self._stage = -1, Stage.SAVED

    def connect(self, handle: Handle) -> None:
        """Have requests and orders answered by a worker's own method."""
        self._handle = handle

    def available(self) -> np.ndarray:
        """Return the clients that are not in quarantine; see `ServerEnd.available`."""
        clients = np.arange(self._shape.clients)
        return np.delete(clients, list(self._quarantine)) if self._quarantine else clients

    def send(self, request: Request) -> None:
        """See `ServerEnd.send`."""
        self._request = request
        round_, clients = request.round, self._shape.clients
        kind = Kind.FULL if round_.full else Kind.SAMPLED
        flags = HAS_MODEL | (HAS_PREVIOUS if request.needs_previous else 0)
        parts = self.frame.pack(kind, round_.number, round_.cohort, everyone=len(round_.cohort) == clients, flags=flags)
        self._bytes_down = sum(part.nbytes for part in parts)

    def collect(self, deadline: float) -> Replies:
        """Compute the replies, however long that takes; see `ServerEnd.collect`."""
        round_, worker = self._request.round, self._worker
        cohort = round_.cohort.tolist()
        asked = [client for client in cohort if client not in self._quarantine]
        current, previous = worker.models(self.frame.current, self.frame.previous)
        worker.begin()
        self._handle(Received(round_, asked, current, previous), worker)
        missing = {c: f"quarantined: {self._quarantine[c]}" for c in cohort if c not in asked}
        return Replies(worker.payloads, missing, worker.afresh, self._bytes_down, worker.bytes)

    def blame(self, client: int, reason: str) -> None:
        """Count an offence; see `ServerEnd.blame`."""
        self._offences[client] += 1
        if self._offences[client] == self._allowed:
            self._quarantine[client] = reason
            text = f"client {client} is in quarantine after {self._allowed} offences, the last: {reason}"
            log.warning("%s", text)
            self.news.append(text)

    def quarantined(self) -> set[int]:
        """See `ServerEnd.quarantined`."""
        return set(self._quarantine)

    def position(self, round_: int) -> dict[str, Any]:
        """Return who has offended, as the star does; see `ServerEnd.position`."""
        return {"clients": [[c, count, self._quarantine.get(c, "")] for c, count in self._offences.items()]}

    def resume(self, round_: int, position: dict[str, Any], everyone: bool) -> None:
        """See `ServerEnd.resume`."""
        for client, offences, reason in position.get("clients", []):
            self._offences[client] = offences
            if reason:
                self._quarantine[client] = reason
        if everyone:
            self._handle(Resume(round_), self._worker)

    def save(self, order: Save) -> None:
        """See `ServerEnd.save`."""
        if order.round != self._saving or self._worker.stage is Stage.WRITING:
            self._saving = order.round
            self._handle(order, self._worker)

    def unsaved(self) -> list[int]:
        """See `ServerEnd.unsaved`."""
        return [1] if self._worker.stage is Stage.WRITING else []

    def end_save(self) -> list[int]:
        """See `ServerEnd.end_save`."""
        return [] if self._worker.stage is Stage.SAVED else [1]

    def stop(self) -> None:
        """See `ServerEnd.stop`."""


class _LocalWorker(WorkerEnd):
    """What the worker is given to answer with: replies go to rows that lie like those of a real transport."""

    def __init__(self, shape: Shape) -> None:
        self._frame = shape.frame()
        self._rows = reply_rows(shape.most_cohort, shape.longest, shape.device, shape.pinned)
        self.payloads = dict[int, Tensor]()
        self.afresh = set[int]()
        self.bytes = 0
        self.stage = Stage.SAVED

    def models(self, current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Return copies of both models, which the clients may spoil."""
        return self._frame.current.copy_(current), self._frame.previous.copy_(previous)

    def begin(self) -> None:
        """Forget the replies of the round before."""
        self.payloads, self.afresh, self.bytes = {}, set(), 0

    def receive(self) -> Received | Save | Resume | None:
        raise AssertionError("the worker of a local run is called")

    def reply(
        self,
        round_: Round,
        client: int,
        length: int,
        fill: Callable[[Tensor], None],
        forge: Forge | None = None,
        flags: int = 0,
    ) -> None:
        """See `WorkerEnd.reply`."""
        assert forge is None, "checked: the faults of the wire need a wire"
        payload = self._rows[len(self.payloads)].payload[:length]
        fill(payload)
        self.payloads[client] = payload
        if flags & AFRESH:
            self.afresh.add(client)
        self.bytes += HEADER_BYTES + length

    def answer(self, order: Save, stage: Stage) -> None:
        """See `WorkerEnd.answer`."""
        self.stage = stage
