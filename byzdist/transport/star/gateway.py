"""A gateway: a small process for each worker, so that nothing a worker sends can hurt the server.

A gateway lives as long as one link: it lets its worker in, passes requests on, checks the replies, and leaves them in shared
memory. gloo may abort it (for a message longer than its buffer), and its worker may block it for any time: only that worker's
link is lost. The keeper forks it, and forks the next one when it has ended (see keeper.py).

Two pipes connect it with the server, and carry the records of records.py: its own says what to send, and one that all gateways
share says what happened.
"""

import _thread
import gc
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from byzdist.transport.base import Shape
from byzdist.transport.star.link import Intrusion, Link, LinkLost, accept
from byzdist.transport.star.records import Command, Report, ReportKind
from byzdist.transport.star.shared import OVER, Shared
from byzdist.transport.store import STORE_PATIENCE, Connect
from byzdist.transport.wire import (
    AFRESH,
    HAS_MODEL,
    HAS_PREVIOUS,
    HEADER_BYTES,
    Kind,
    RequestFrame,
    WireError,
    bare_message,
    check_reply,
    checksum,
    read_stage,
)

_DISMISSED, _LOST = 0, 1  # exit codes of a gateway


@dataclass(frozen=True)
class GatewaySetup:
    """What gateways are started with.

    Attributes:
        keys: each worker's key, by rank.
        welcome: what a worker is told when it may join.
        commands: the read end of each gateway's own pipe, by rank.
        reports: the write end of the shared pipe.
        connect: opens a connection to the job's store for the calling process.
        patience: how long a link may keep a gateway waiting before it is closed, in seconds.
    """

    shape: Shape
    shared: Shared
    keys: dict[int, bytes]
    welcome: bytes
    commands: dict[int, int]
    reports: int
    connect: Connect
    patience: timedelta

    def tell(self, report: Report) -> None:
        """Write a report."""
        os.write(self.reports, report.pack())


class Gateway:
    """One gateway process, for one link."""

    def __init__(self, setup: GatewaySetup, rank: int, generation: int, frame: RequestFrame) -> None:
        self._setup, self._rank, self._generation, self._frame = setup, rank, generation, frame
        self._commands = setup.commands[rank]
        self._model_round = -1  # the round whose model the worker certainly holds
        self._link: Link

    def run(self) -> NoReturn:
        """Serve one link until it ends, then end this process."""
        gc.disable()
        self._end_with(self._live)

    def _end_with(self, action: Callable[[], None]) -> NoReturn:
        """End this process with an action, and tell the server what went wrong there."""
        try:
            action()
            os._exit(_DISMISSED)
        except LinkLost as lost:
            self._tell(ReportKind.LOST, text=str(lost))
        except Intrusion as intrusion:
            self._tell(ReportKind.EXPELLED, text=str(intrusion))
        except MemoryError:
            self._tell(ReportKind.EXPELLED, text="made its gateway run out of memory")
        except BaseException as error:  # any error: it must not reach the server's code above the fork
            self._tell(ReportKind.LOST, text=f"{type(error).__name__}: {error}")
        os._exit(_LOST)

    def _live(self) -> None:
        setup, rank = self._setup, self._rank
        why_dismissed = partial(setup.shared.why_dismissed, rank)
        link = accept(setup.connect(STORE_PATIENCE), rank, setup.keys[rank], setup.welcome, why_dismissed)
        if link is None:
            return
        self._link = link
        self._tell(ReportKind.JOINED)  # before any other report of this link
        # threading.Thread would take ten times the memory.
        _thread.start_new_thread(self._end_with, (link.watch,))
        while self._serve():
            pass

    def _is_dismissed(self) -> int:
        return int(self._setup.shared.dismissed[self._rank])

    def _tell(self, what: ReportKind, client: int = 0, text: str = "") -> None:
        self._setup.tell(Report(what, self._rank, self._generation, client, text))

    def _serve(self) -> bool:
        """Run one command; False ends the link."""
        command = Command.unpack(os.read(self._commands, Command.SIZE))
        if command.generation != self._generation:  # it was meant for an earlier link
            return True
        if command.kind is Kind.RESUME:
            for part in self._compose(command, np.arange(0)):
                self._link.finish(self._link.post_send(part), self._setup.patience)
            self._model_round = command.round if command.flags & HAS_MODEL else -1
            self._tell(ReportKind.ORDER_DONE)
        elif command.kind is Kind.SAVE:
            self._ask(command)
        elif command.kind is not Kind.STOP:
            self._exchange(command)
        elif self._is_dismissed() == OVER:
            self._link.send(self._compose(command, np.arange(0))[0])
        return command.kind is not Kind.STOP

    def _ask(self, command: Command) -> None:
        """Pass on an order to save, and pass back the answer."""
        message = bare_message(Kind.SAVE, command.round, length=command.length)
        answer = torch.zeros(HEADER_BYTES, dtype=torch.uint8)
        receiving = self._link.post_receive(answer)
        self._link.finish(self._link.post_send(message), self._setup.patience)
        self._link.finish(receiving, self._setup.patience)
        try:
            self._tell(ReportKind.ORDER_DONE, read_stage(answer, command.round))
        except WireError as error:
            raise Intrusion(f"sent {error}") from None

    def _exchange(self, command: Command) -> None:
        """Pass on a request, and pass back the replies."""
        shared, shape, link, patience = self._setup.shared, self._setup.shape, self._link, self._setup.patience
        cohort, places, afresh = shared.cohort(command.cohort)
        request = self._compose(command, cohort, afresh)
        if not shared.is_current(command.round):  # this process was delayed beyond the round: what it read may be torn
            self._tell(ReportKind.IDLE)
            return
        mine = shape.rank(cohort) == self._rank
        clients, rows = cohort[mine].tolist(), [shared.rows[place] for place in places[mine].tolist()]
        for row in rows:  # gloo accepts an empty message: an old header must not count as its content
            row.message.numpy()[:HEADER_BYTES] = 0
        # Receives are posted before the request leaves: gloo then sends replies without asking whether they are expected.
        receiving = [link.post_receive(row.message) for row in rows]
        for work in [link.post_send(part) for part in request]:
            link.finish(work, patience)
        whole = len(request) == 1 or shared.is_current(command.round)
        self._model_round = command.round if whole else -1
        shared.traffic[self._rank, 0] += sum(part.nbytes for part in request)
        for client, row, work in zip(clients, rows, receiving, strict=True):
            link.finish(work, patience)
            try:
                total = checksum(row.room(command.length))
                flags = check_reply(row.message, total, command.round, client, command.length)
            except WireError as error:
                self._tell(ReportKind.OFFENCE, client, str(error))
            else:
                shared.traffic[self._rank, 1] += HEADER_BYTES + command.length
                self._tell(ReportKind.REPLY, client, "afresh" if flags & AFRESH else "")

    def _compose(self, command: Command, cohort: np.ndarray, afresh: Collection[int] = ()) -> list[Tensor]:
        """Return the messages of a request."""
        models, frame = self._setup.shared.frame, self._frame
        flags = command.flags
        if self._model_round == command.round - 1:
            flags &= ~HAS_PREVIOUS
        if flags and not frame.parts_apart(flags):  # by numpy, because torch's copy may use threads, which a fork lacks
            frame.current.numpy()[:] = models.current.numpy()
            if flags & HAS_PREVIOUS:
                frame.previous.numpy()[:] = models.previous.numpy()
        everyone = command.cohort in (0, self._setup.shape.clients)
        return frame.pack(command.kind, command.round, cohort, everyone=everyone, flags=flags, afresh=afresh)
