"""A worker's end of the star: one link, opened again whenever it breaks."""

import logging
import os
import threading
import time
from collections.abc import Callable

from torch import Tensor
from torch.distributed import DistError

from byzdist.torch_private import Work
from byzdist.transport.base import Received, Reply, Resume, Save, Shape, WorkerEnd
from byzdist.transport.inbox import Inbox
from byzdist.transport.reply_rows import ReplyRows
from byzdist.transport.star.link import BRIEF, END, Link, LinkLost, join, read_note
from byzdist.transport.star.shared import link_frame
from byzdist.transport.store import SERIES, STORE_PATIENCE, Connect, NoStore
from byzdist.transport.wire import Kind, Stage, bare_message, checksum

log = logging.getLogger(__name__)
_LOOK = 0.5  # seconds between two looks at the store


class StarWorker(WorkerEnd):
    """The end of worker ``rank``.

    Args:
        key: the key that this worker shares with the server.
        connect: opens a connection to the job's store.
        join_timeout: how long the worker tries to join, or to join again, in seconds.
        agree: called with what the server says of the run, each time that this worker joins, and may raise.
    """

    def __init__(
        self,
        shape: Shape,
        rank: int,
        key: bytes,
        connect: Connect,
        join_timeout: float,
        agree: Callable[[str], None] = lambda facts: None,
    ) -> None:
        self._shape, self._rank, self._key = shape, rank, key
        self._connect, self._join_timeout, self._agree = connect, join_timeout, agree
        self._attempt = ""  # the server's attempt that this worker joined
        self._inbox = Inbox(shape, rank, (link_frame(shape), link_frame(shape)), shares_headers=False)
        rows = ReplyRows.make(2, shape.max_payload, shape.device, shape.pinned)
        self._rows = [rows[0], rows[1]]
        self._link: Link | None = None
        self._sending: Work | None = None
        self._expected: Work | None = None  # the receive of the next request's first message
        self._stays = True
        self._turns = 0  # how many replies this worker still owes
        self._has_left = threading.Event()

    def open(self) -> bool:
        """Join; see `WorkerEnd.open`. The store may appear minutes after this process, but must not be away later for so long.

        Raises:
            RunError: if no server that knows the key lets this worker in.
        """
        patience, wait = self._join_timeout, 0.0 if self._attempt else STORE_PATIENCE
        joined = join(self._connect, self._rank, self._key, patience, lambda: self._stays, self._attempt, wait)
        if joined is None:
            return False
        self._agree(joined.facts)
        self._link, self._attempt = joined.link, joined.attempt
        self._inbox.forget_model()
        log.info("joined")
        return True

    def end_with_the_run(self, patience: float) -> None:
        """Start a thread that ends this process ``patience`` seconds after its part in the run, should it hang.

        In a job that trains several times the thread goes when the worker leaves this run. The server's
        note counts only without an open link, because on a link the server itself says that the run is over.
        """
        main, lives_on = threading.main_thread(), SERIES in os.environ

        def watch() -> None:
            code, until = 0, time.monotonic() + self._join_timeout
            store = None
            while main.is_alive() and not (lives_on and self._has_left.is_set()):
                time.sleep(_LOOK)
                link = self._link  # a copy: the main thread may drop the link at any moment
                if self._attempt == "" or (link is not None and link.is_open):
                    until = time.monotonic() + self._join_timeout
                    continue
                try:
                    store = store or self._connect(_LOOK)
                    store.set_timeout(BRIEF)
                    if read_note(store, self._rank, self._key, self._attempt) == END:
                        break
                    until = time.monotonic() + self._join_timeout
                except (DistError, NoStore):
                    store = None
                    if time.monotonic() > until:  # no note can come any more
                        code = 1
                        break
            if lives_on and self._has_left.wait(patience):
                return
            main.join(0 if lives_on else patience)
            if main.is_alive():
                os._exit(code)

        # Not a daemon: the interpreter must wait for it, because ending it inside the store's code aborts the process.
        threading.Thread(target=watch).start()

    def leave(self) -> None:
        """Note that this worker's part in the run is over; see `WorkerEnd.leave`."""
        self._has_left.set()

    def receive(self) -> Received | Save | Resume | None:
        """Wait for the next request or order, joining first if there is no link; see `WorkerEnd.receive`.

        Raises:
            RunError: if the server is gone or refuses this worker.
        """
        while True:
            if self._link is None and not self.open():
                return None
            assert self._link is not None
            try:
                return self._next(self._link)
            except LinkLost as lost:
                self._drop(lost)

    def _next(self, link: Link) -> Received | Save | Resume | None:
        expected = self._expected or self._expect(link)
        link.finish(expected)
        self._expected = None
        received = self._inbox.take(link.receive)
        if isinstance(received, Received):
            self._turns = len(received.mine)
        return received

    def room(self, length: int) -> Tensor:
        """See `WorkerEnd.room`; the previous reply is being sent meanwhile, from the other row."""
        self._rows.reverse()
        return self._rows[0].room(length)

    def reply(self, reply: Reply) -> None:
        """Send a client's reply while the next one is computed; do nothing on a broken link. See `WorkerEnd.reply`."""
        (message,) = self._rows[0].finish(reply, checksum(reply.payload))
        self._turns -= 1
        if self._link is None:
            return
        try:
            self._settle(self._link)
            if not self._turns:
                self._expected = self._expect(self._link)  # x^{k-1} is no longer needed
            self._sending = self._link.post_send(reply.forge(message) if reply.forge else message)
        except LinkLost as lost:
            self._drop(lost)

    def answer(self, order: Save, stage: Stage) -> None:
        """Tell the server how far an order is; do nothing on a broken link."""
        if self._link is None:
            return
        try:
            self._settle(self._link)
            self._link.send(bare_message(Kind.SAVED, order.round, stage))
        except LinkLost as lost:
            self._drop(lost)

    def stop_waiting(self) -> None:
        """See `WorkerEnd.stop_waiting`."""
        self._stays = False

    def _expect(self, link: Link) -> Work:
        return link.post_receive(self._inbox.buffer)

    def _settle(self, link: Link) -> None:
        """Wait until the previous reply has left."""
        if self._sending is not None:
            sending, self._sending = self._sending, None
            link.finish(sending)

    def _drop(self, lost: LinkLost) -> None:
        log.info("lost the link to the server: %s", lost)
        self._link = self._sending = self._expected = None
