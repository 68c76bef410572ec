"""The keeper, which forks the gateways, and the server's side of both.

The server forks the keeper before it starts any thread, and the keeper forks a gateway for each worker, and a new one whenever one ends.
The memory of a gateway is limited, whatever its worker sends, and if the machine runs short of memory, the kernel ends gateways
first. If somebody stops a gateway, the keeper ends it; if somebody stops the keeper, the server wakes it. The keeper dies with the
server, and the gateways die with the keeper.
"""

import faulthandler
import gc
import logging
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import NoReturn

import torch

from byzdist.errors import RunError
from byzdist.host.processes import die_with_parent, name_process
from byzdist.transport.base import Shape
from byzdist.transport.star import small_forks
from byzdist.transport.star.gateway import Gateway, GatewaySetup
from byzdist.transport.star.link import where_to_listen
from byzdist.transport.star.records import Command, Report, ReportKind
from byzdist.transport.star.shared import OVER, Shared, link_frame
from byzdist.transport.store import Connect

log = logging.getLogger(__name__)
_ROOM = 2**26  # bytes that a gateway may take, in addition to the keeper's memory, the stacks of its threads, and
_REPLY = 2**13  # bytes for each reply that it waits for
_THREADS, _STACK = 8, 2**23  # how many threads it may have, and the bytes of a stack if the system names no limit
# Ignored, because a terminal's Ctrl-Z must stop only the server and the workers.
_TERMINAL = signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU
_QUICK, _PAUSE = 1.0, 0.2  # seconds: a gateway that ended sooner than the first is replaced after the second


class Gateways:
    """The server's side: a pipe to each gateway, one pipe from all of them, and the keeper. Make it before any thread.

    Args:
        keys: each worker's key, by rank.
        welcome: what a worker is told when it may join.
        connect: opens a connection to the job's store.
        patience: how long a link may keep its gateway waiting, in seconds.
    """

    def __init__(
        self, shape: Shape, shared: Shared, keys: dict[int, bytes], welcome: bytes, connect: Connect, patience: float
    ) -> None:
        self._shared = shared
        commands = {rank: os.pipe() for rank in range(1, shape.workers + 1)}
        readers = {rank: reader for rank, (reader, _) in commands.items()}
        self._commands = {rank: writer for rank, (_, writer) in commands.items()}
        self._reports, reports = os.pipe()
        theirs = replace(shape, pinned=False)  # a fork must not touch its parent's GPU
        setup = GatewaySetup(theirs, shared, keys, welcome, readers, reports, connect, timedelta(seconds=patience))
        self.keeper, self._start = _fork_keeper(setup)
        for end in (*readers.values(), reports):
            os.close(end)
        self._poll = select.poll()
        self._poll.register(self._reports, select.POLLIN)

    def start(self) -> None:
        """Let the keeper fork the gateways; the job's store must be there."""
        os.close(self._start)

    def give(self, rank: int, command: Command) -> None:
        """Tell one gateway what to do."""
        with suppress(BrokenPipeError):  # the keeper is gone: `listen` will report it
            os.write(self._commands[rank], command.pack())

    def listen(self, seconds: float) -> list[Report]:
        """Return what the gateways have reported, waiting ``seconds`` at most for the first report.

        Raises:
            RunError: if the keeper is gone.
        """
        if not self._poll.poll(max(0.0, seconds) * 1000):
            return []
        records = os.read(self._reports, 64 * Report.SIZE)
        if not records and not self._shared.dismissed[1:].all():  # else the keeper has ended because no worker may join
            raise RunError("the process that keeps the gateways was ended from outside.")
        return [Report.unpack(records[at : at + Report.SIZE]) for at in range(0, len(records), Report.SIZE)]

    def wake_keeper(self) -> None:
        """Wake the keeper if somebody has stopped it, because only the keeper replaces gateways."""
        with suppress(ChildProcessError):  # it has ended
            if os.waitid(os.P_PID, self.keeper, os.WSTOPPED | os.WNOHANG):
                log.warning("the process that keeps the gateways was stopped; it is woken")
                os.kill(self.keeper, signal.SIGCONT)

    def end(self, patience: float) -> None:
        """Wait at most ``patience`` seconds for the keeper to end, then kill it."""
        until = time.monotonic() + patience
        while os.waitpid(self.keeper, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(self.keeper, signal.SIGKILL)  # its gateways end with it
                os.waitpid(self.keeper, 0)
                break
            time.sleep(0.01)
        for end in (self._reports, *self._commands.values()):
            os.close(end)


def _fork_keeper(setup: GatewaySetup) -> tuple[int, int]:
    """Fork the keeper; return its process id, and the descriptor to close when it is to fork the gateways."""
    parent = os.getpid()
    where_to_listen()
    ready, start = os.pipe()
    if pid := os.fork():
        os.close(ready)
        return pid, start
    try:
        die_with_parent(parent)
        name_process("byzdist-keeper")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *_TERMINAL):
            signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C is the server's to handle
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)  # an abort's stack trace would let any worker fill the server's log
        faulthandler.disable()  # it may write to another file, which a worker could fill as well
        torch.set_num_threads(1)  # a fork lacks the threads of the server's torch
        os.close(start)
        os.read(ready, 1)  # ends when the server closes its side
        gc.freeze()  # the collector would copy the pages that are shared with the server
        small_forks.fill_heap()
        _limit_memory(setup.shape)
        _keep(setup)
    finally:
        os._exit(1)


def _limit_memory(shape: Shape) -> None:
    """Limit the private memory of this process, and of each one that it forks, if the system shows it (Linux)."""
    replies = min(shape.max_cohort, shape.clients // shape.workers + 1)
    with suppress(OSError, ValueError):  # the user has set a lower limit
        with open("/proc/self/statm") as sizes:
            held = int(sizes.read().split()[5]) * resource.getpagesize()
        stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
        stacks = _THREADS * (_STACK if stack == resource.RLIM_INFINITY else stack)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (held + stacks + _ROOM + replies * _REPLY, hard))


def _be_the_first_to_go() -> None:
    """Have the kernel end this process before others when memory is short."""
    with suppress(OSError):
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(file, b"1000")
        os.close(file)


def _keep(setup: GatewaySetup) -> NoReturn:
    """Fork a gateway for each worker, and a new one whenever one has ended, until the run is over."""
    keeper = os.getpid()
    generations = dict.fromkeys(setup.commands, 0)
    living: dict[int, tuple[int, float]] = {}  # by process id: rank, and when it began
    waiting = dict.fromkeys(setup.commands, 0.0)  # by rank: the pause before it lets its worker in
    frame = link_frame(setup.shape, setup.shared.models)  # each gateway gets a copy when it first writes there
    while waiting or living:
        for rank, pause in waiting.items():
            generations[rank] += 1
            if pid := _fork():
                living[pid] = rank, time.monotonic()
            else:
                die_with_parent(keeper)
                name_process(f"byzdist-g{rank}")
                _be_the_first_to_go()
                time.sleep(pause)
                Gateway(setup, rank, generations[rank], frame).run()
        waiting = {}
        pid, status = os.waitpid(-1, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(pid, signal.SIGKILL)
            continue
        rank, began = living.pop(pid)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number == signal.SIGABRT:  # gloo's answer to a message longer than its buffer
            setup.tell(Report(ReportKind.EXPELLED, rank, generations[rank], text="sent more than it was asked for"))
        how = f"was ended by {signal.Signals(number).name}" if number else "has ended"
        setup.tell(Report(ReportKind.ENDED, rank, generations[rank], text=f"its gateway {how}"))
        is_quick = time.monotonic() - began < _QUICK
        waiting = {} if setup.shared.dismissed[rank] == OVER else {rank: _PAUSE * is_quick}
    os._exit(0)


def _fork(fork: Callable[[], int] = small_forks.fork) -> int:
    while True:
        try:
            return fork()
        except OSError:  # the system has no room for a process just now
            time.sleep(_PAUSE)
