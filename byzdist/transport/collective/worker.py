"""A worker's end of the collective transport."""

import numpy as np
import torch.distributed as dist
from torch import Tensor

from byzdist.transport.base import Received, Reply, Resume, Save, Shape, WorkerEnd
from byzdist.transport.collective.group import SERVER, irecv, isend, run_ends_if
from byzdist.transport.inbox import Inbox
from byzdist.transport.reply_rows import ReplyRows
from byzdist.transport.wire import Kind, Stage, bare_message

_GONE = "the server is gone"


class CollectiveWorker(WorkerEnd):
    """A worker's end, any other rank of the default group."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._inbox = Inbox(shape, dist.get_rank(), (shape.frame(), shape.frame()), shares_headers=True)
        rows = ReplyRows.make(2, shape.max_payload, shape.device, shape.pinned)
        self._rows = [rows[0], rows[1]]
        self._sending: list[list[dist.Work]] = [[], []]
        self._is_full = False
        self._turns = 0  # replies, or gathers of a full round, that this rank still has to take part in
        self._next: dist.Work | None = None
        self._full_length = shape.dimension * shape.dtype.itemsize + shape.trailer

    @run_ends_if(_GONE)
    def receive(self) -> Received | Save | Resume | None:
        """Wait for the next request or order; see `WorkerEnd.receive`."""
        while self._turns:  # gathers of a full round in which only other workers host a client
            _settle(self._sending[0])
            self._ship(self._rows[0].parts(self._full_length))
        if self._next is None:
            self._expect()
        assert self._next is not None
        self._next.wait()
        self._next = None
        received = self._inbox.take(lambda part: irecv(part, SERVER).wait())
        if received is None:
            for works in self._sending:
                _settle(works)
            dist.destroy_process_group()
        elif isinstance(received, Received):
            self._is_full, self._turns = received.round.full, len(received.mine)
            if self._is_full:
                self._turns = int(np.bincount(received.round.cohort % self._shape.workers).max(initial=0))
            if not received.has_model:
                dist.broadcast(received.x, SERVER)
        return received

    def _expect(self) -> None:
        """Post the receive of the next request, so that gloo sends it at once."""
        self._next = irecv(self._inbox.buffer, SERVER)

    @run_ends_if(_GONE)
    def room(self, length: int) -> Tensor:
        """See `WorkerEnd.room`; the previous reply is being sent meanwhile, from the other row."""
        self._rows.reverse()
        self._sending.reverse()
        _settle(self._sending[0])
        return self._rows[0].room(length)

    @run_ends_if(_GONE)
    def reply(self, reply: Reply) -> None:
        """Send a client's reply while the next one is computed; see `WorkerEnd.reply`."""
        assert reply.forge is None, "checks.py refuses attacks on the wire here"
        parts = self._rows[0].finish(reply)
        if self._turns == 1 and not self._is_full:
            self._expect()  # x^{k-1} is no longer needed
        self._ship(parts)

    def _ship(self, parts: list[Tensor]) -> None:
        for part in parts:
            if self._is_full:
                work = dist.gather(part, None, SERVER, async_op=True)
            else:
                work = isend(part, SERVER)
            self._sending[0].append(work)
        self._turns -= 1

    @run_ends_if(_GONE)
    def answer(self, order: Save, stage: Stage) -> None:
        """See `WorkerEnd.answer`."""
        isend(bare_message(Kind.SAVED, order.round, stage), SERVER).wait()


def _settle(works: list[dist.Work]) -> None:
    """Wait until a reply has left."""
    for work in works:
        work.wait()
    works.clear()
