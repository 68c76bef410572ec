"""Gateways: one small process a worker, so that nothing a worker sends can hurt the server.

The server forks a keeper before it starts any thread, and the keeper forks the gateways, again whenever one has ended. A gateway
lives as long as one link: it lets its worker in, passes requests on, checks the replies, and leaves them in shared memory. It may
be aborted by gloo (a message longer than its buffer) or block for as long as its worker likes; only that worker's link is lost.
What its worker makes it keep in memory has a limit, and where the whole machine's is short, the kernel ends gateways first. One that
is stopped from outside is ended by the keeper, as a keeper that is stopped is woken by the server.

Two pipes connect it with the server, both with records of a fixed size that are written whole: its own, with what to send, and
one that all gateways share, with what happened. The keeper dies with the server, and the gateways die with the keeper.
"""

import _thread
import ctypes
import faulthandler
import gc
import os
import resource
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from functools import partial
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from byzdist.host.processes import call_process, die_with_parent
from byzdist.transport.base import Shape
from byzdist.transport.star.link import Intrusion, Link, LinkLost, accept, where_to_listen
from byzdist.transport.star.shared import OVER, Shared, link_frame
from byzdist.transport.store import STORE_PATIENCE, Connect
from byzdist.transport.wire import (
    AFRESH,
    HAS_MODEL,
    HAS_PREVIOUS,
    HEADER_BYTES,
    Header,
    Kind,
    RequestFrame,
    WireError,
    check_reply,
    checksum,
    read_stage,
)

_DISMISSED, _LOST = 0, 1  # exit codes of a gateway
# The C library's fork, for a keeper has one thread and no use for what Python renews in a child (locks of logging and the like),
# which would cost every gateway another megabyte. PyDLL holds on to the interpreter's lock, as os.fork does.
_FORK = ctypes.PyDLL(None).fork
_MALLOC = ctypes.CDLL(None).malloc
_FILL = 2**19  # bytes for each size of hole
_ROOM = 2**26  # bytes that a gateway may hold beyond what the keeper does, the stacks of its threads, and
_REPLY = 2**13  # what it needs to wait for one more reply
_THREADS, _STACK = 8, 2**23  # as many as it may have, and the bytes of a stack where the system names no limit
_TERMINAL = (
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)  # a terminal's Ctrl-Z is for the server and the workers alone
_QUICK, _PAUSE = 1.0, 0.2  # seconds: before the next gateway of one that ended so soon, and between two tries to fork


class EventKind(IntEnum):
    """What a gateway tells the server."""

    JOINED = 1
    REPLY = 2  # ``text`` is not empty where the client had remembered nothing
    OFFENCE = 3  # a reply that is not what it should be; it takes the reply's place
    IDLE = 4  # the round was over before the request could be passed on
    LOST = 5
    EXPELLED = 6  # likewise, for what the worker sent; it may have aborted the gateway
    ENDED = 7  # the gateway's process is no more: from now on nothing writes where its replies were to go
    DONE = 8  # with an order that is no request; ``client`` is the `Stage`


@dataclass(frozen=True)
class Event:
    """One record of the shared pipe; ``generation`` counts a worker's gateways, so that the past is not taken for the present."""

    what: EventKind
    rank: int
    generation: int
    client: int = 0
    text: str = ""

    _LAYOUT = struct.Struct("<IIII112s")
    SIZE = _LAYOUT.size

    def pack(self) -> bytes:
        """Return the record."""
        text = self.text.encode()[:112].decode(errors="ignore").encode()
        return self._LAYOUT.pack(self.what, self.rank, self.generation, self.client, text)

    @classmethod
    def unpack(cls, record: bytes) -> "Event":
        """Read a record."""
        what, rank, generation, client, text = cls._LAYOUT.unpack(record)
        return cls(EventKind(what), rank, generation, client, text.rstrip(b"\0").decode())


@dataclass(frozen=True)
class Command:
    """What the server wants of one gateway: to pass a message on, or to end.

    Attributes:
        length: of each reply's payload, or what the header of an order says.
        cohort: its size.
        flags: which models go with it; x^{k-1} only where the worker lacks it.
    """

    generation: int
    kind: Kind
    round: int = 0
    length: int = 0
    cohort: int = 0
    flags: int = 0

    _LAYOUT = struct.Struct("<IIIQII")
    SIZE = _LAYOUT.size

    @classmethod
    def end(cls, generation: int) -> "Command":
        """Return the last command."""
        return cls(generation, Kind.STOP)

    def pack(self) -> bytes:
        """Return the record."""
        return self._LAYOUT.pack(self.generation, self.kind, self.round, self.length, self.cohort, self.flags)

    @classmethod
    def unpack(cls, record: bytes) -> "Command":
        """Read a record."""
        generation, kind, *rest = cls._LAYOUT.unpack(record)
        return cls(generation, Kind(kind), *rest)


@dataclass(frozen=True)
class GatewaySetup:
    """What gateways are started with.

    Attributes:
        keys: each worker's key, by rank.
        welcome: what a worker is told that may join.
        commands: the reading end of each gateway's own pipe, by rank.
        events: the writing end of the shared pipe.
        connect: opens a process's own connection to the job's store.
        patience: how long a link may keep a gateway waiting before it is closed.
    """

    shape: Shape
    shared: Shared
    keys: dict[int, bytes]
    welcome: bytes
    commands: dict[int, int]
    events: int
    connect: Connect
    patience: timedelta

    def tell(self, event: Event) -> None:
        """Write an event."""
        os.write(self.events, event.pack())


def start_keeper(setup: GatewaySetup) -> tuple[int, Callable[[], None]]:
    """Fork the keeper; return its process id, and the function that lets it fork the gateways once there is a store.

    No thread may run yet.
    """
    parent = os.getpid()
    where_to_listen()
    ready, store_is_there = os.pipe()
    if pid := os.fork():
        os.close(ready)
        return pid, lambda: os.close(store_is_there)
    try:
        die_with_parent(parent)
        call_process("byzdist-keeper")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *_TERMINAL):
            signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C is the server's to handle
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)  # an abort's stack trace would let any worker fill the server's log
        faulthandler.disable()  # likewise, where it was told to write elsewhere
        torch.set_num_threads(1)  # what threads the server's torch had are not there after a fork
        os.close(store_is_there)
        os.read(ready, 1)  # ends when the server closes its side
        gc.freeze()  # the collector would copy the pages that are shared with the server
        _fill_heap()
        _limit_memory(setup.shape)
        _keep(setup)
    finally:
        os._exit(1)


def _fill_heap() -> None:
    """Take up the small holes that the server's past has left in the heap, so that gateways allocate on fresh pages.

    Where they fill the holes instead, each writes to pages all over the heap and so has twice as much memory of its own.
    """
    for size in (16384, 4096, 2048, 1024, 512, 256, 128, 96, 64, 48, 32, 24):
        for _ in range(_FILL // size):
            _MALLOC(size)


def _limit_memory(shape: Shape) -> None:
    """Limit what this process, and each one that it forks, may hold for itself, where the system shows that (Linux)."""
    replies = min(shape.most_cohort, shape.clients // shape.workers + 1)
    with suppress(OSError, ValueError):  # a lower limit is the user's
        with open("/proc/self/statm") as sizes:
            held = int(sizes.read().split()[5]) * resource.getpagesize()
        stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
        stacks = _THREADS * (_STACK if stack == resource.RLIM_INFINITY else stack)
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (held + stacks + _ROOM + replies * _REPLY, most))


def _be_the_first_to_go() -> None:
    """Have the kernel end this process before others where memory is short."""
    with suppress(OSError):
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(file, b"1000")
        os.close(file)


def _keep(setup: GatewaySetup) -> NoReturn:
    """Fork a gateway for each worker, and anew whenever one has ended, until the run is over."""
    keeper = os.getpid()
    generations = dict.fromkeys(setup.commands, 0)
    living: dict[int, tuple[int, float]] = {}  # by process: rank, and when it began
    waiting = dict.fromkeys(setup.commands, 0.0)  # by rank: the pause before it lets its worker in
    frame = link_frame(setup.shape, setup.shared.models)  # of which each gateway has a copy once it writes there
    while waiting or living:
        for rank, pause in waiting.items():
            generations[rank] += 1
            if pid := _fork():
                living[pid] = rank, time.monotonic()
            else:
                die_with_parent(keeper)
                call_process(f"byzdist-g{rank}")
                _be_the_first_to_go()
                time.sleep(pause)
                _Gateway(setup, rank, generations[rank], frame).run()
        waiting = {}
        pid, status = os.waitpid(-1, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(pid, signal.SIGKILL)
            continue
        rank, began = living.pop(pid)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number == signal.SIGABRT:  # gloo's answer to a message longer than its buffer
            setup.tell(Event(EventKind.EXPELLED, rank, generations[rank], text="sent more than it was asked for"))
        how = f"was ended by {signal.Signals(number).name}" if number else "has ended"
        setup.tell(Event(EventKind.ENDED, rank, generations[rank], text=f"its gateway {how}"))
        is_quick = time.monotonic() - began < _QUICK
        waiting = {} if setup.shared.dismissed[rank] == OVER else {rank: _PAUSE * is_quick}
    os._exit(0)


def _fork() -> int:
    while (pid := int(_FORK())) < 0:  # the system has no room for a process just now
        time.sleep(_PAUSE)
    return pid


class _Gateway:
    """One gateway process."""

    def __init__(self, setup: GatewaySetup, rank: int, generation: int, frame: RequestFrame) -> None:
        self._setup, self._rank, self._generation, self._frame = setup, rank, generation, frame
        self._commands = setup.commands[rank]
        self._model_round = -1  # the round whose model the worker holds for sure
        self._link: Link

    def run(self) -> NoReturn:
        """Serve one link to its end."""
        gc.disable()
        self._end_with(self._live)

    def _end_with(self, action: Callable[[], None]) -> NoReturn:
        """End this process with an action, and tell the server what went wrong there."""
        try:
            action()
            os._exit(_DISMISSED)
        except LinkLost as lost:
            self._tell(EventKind.LOST, text=str(lost))
        except Intrusion as intrusion:
            self._tell(EventKind.EXPELLED, text=str(intrusion))
        except MemoryError:
            self._tell(EventKind.EXPELLED, text="made its gateway run out of memory")
        except BaseException as error:  # whatever it is, it must not reach the server's code above the fork
            self._tell(EventKind.LOST, text=f"{type(error).__name__}: {error}")
        os._exit(_LOST)

    def _live(self) -> None:
        setup, rank = self._setup, self._rank
        why_dismissed = partial(setup.shared.why_dismissed, rank)
        link = accept(setup.connect(STORE_PATIENCE), rank, setup.keys[rank], setup.welcome, why_dismissed)
        if link is None:
            return
        self._link = link
        self._tell(EventKind.JOINED)  # before anything that could follow it
        # A tenth of the memory that threading.Thread touches.
        _thread.start_new_thread(self._end_with, (link.watch,))
        while self._serve():
            pass

    def _is_dismissed(self) -> int:
        return int(self._setup.shared.dismissed[self._rank])

    def _tell(self, what: EventKind, client: int = 0, text: str = "") -> None:
        self._setup.tell(Event(what, self._rank, self._generation, client, text))

    def _serve(self) -> bool:
        """Run one command; False ends the link."""
        command = Command.unpack(os.read(self._commands, Command.SIZE))
        if command.generation != self._generation:  # meant for a link that is gone
            return True
        if command.kind is Kind.RESUME:
            for part in self._compose(command, np.arange(0)):
                self._link.finish(self._link.post_send(part), self._setup.patience)
            self._model_round = command.round if command.flags & HAS_MODEL else -1
            self._tell(EventKind.DONE)
        elif command.kind is Kind.SAVE:
            self._ask(command)
        elif command.kind is not Kind.STOP:
            self._exchange(command)
        elif self._is_dismissed() == OVER:
            self._link.send(self._compose(command, np.arange(0))[0])
        return command.kind is not Kind.STOP

    def _ask(self, command: Command) -> None:
        """Pass on an order to save, and the answer back."""
        message, answer = torch.zeros(2, HEADER_BYTES, dtype=torch.uint8)
        Header(Kind.SAVE, command.round, 0, 0, command.length).write(message)
        receiving = self._link.post_receive(answer)
        self._link.finish(self._link.post_send(message), self._setup.patience)
        self._link.finish(receiving, self._setup.patience)
        try:
            self._tell(EventKind.DONE, read_stage(answer, command.round))
        except WireError as error:
            raise Intrusion(f"sent {error}") from None

    def _exchange(self, command: Command) -> None:
        """Pass a request on, and the replies back."""
        shared, shape, link, patience = self._setup.shared, self._setup.shape, self._link, self._setup.patience
        cohort, places = shared.cohort(command.cohort)
        request = self._compose(command, cohort)
        if not shared.is_current(command.round):  # this process was held up beyond the round: what it read may be torn
            self._tell(EventKind.IDLE)
            return
        mine = shape.rank(cohort) == self._rank
        clients, rows = cohort[mine].tolist(), [shared.row(place) for place in places[mine].tolist()]
        for row in rows:  # gloo takes a message of no bytes for one: the last header must not stand for it
            row.message.numpy()[:HEADER_BYTES] = 0
        # Receives are posted before the request leaves, so that replies need not ask whether they are expected.
        receiving = [link.post_receive(row.message) for row in rows]
        for work in [link.post_send(part) for part in request]:
            link.finish(work, patience)
        whole = len(request) == 1 or shared.is_current(command.round)
        self._model_round = command.round if whole else -1
        shared.traffic[self._rank, 0] += sum(part.nbytes for part in request)
        for client, row, work in zip(clients, rows, receiving, strict=True):
            link.finish(work, patience)
            try:
                total = checksum(row.payload[: command.length])
                flags = check_reply(row.message, total, command.round, client, command.length)
            except WireError as error:
                self._tell(EventKind.OFFENCE, client, str(error))
            else:
                shared.traffic[self._rank, 1] += HEADER_BYTES + command.length
                self._tell(EventKind.REPLY, client, "afresh" if flags & AFRESH else "")

    def _compose(self, command: Command, cohort: np.ndarray) -> list[Tensor]:
        """Return the messages of a request."""
        models, frame = self._setup.shared.frame, self._frame
        flags = command.flags
        if self._model_round == command.round - 1:
            flags &= ~HAS_PREVIOUS
        if flags and not frame.parts_apart(flags):  # by numpy, for torch's copy may want threads that no fork has
            frame.current.numpy()[:] = models.current.numpy()
            if flags & HAS_PREVIOUS:
                frame.previous.numpy()[:] = models.previous.numpy()
        everyone = command.cohort in (0, self._setup.shape.clients)
        return frame.pack(command.kind, command.round, cohort, everyone=everyone, flags=flags)
