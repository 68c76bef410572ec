"""The job's store, in a process of its own: a flood of its port harms only that process, and it is started again.

Ranks meet at the store (see star/link.py). Nothing that it holds decides anything, so a store that has been started again may be empty. The
server forks the store's keeper before it starts any thread. The keeper holds the listening socket, bound to the interface of
MASTER_ADDR and to no other, and forks the store, and a new one whenever it has ended; connections meanwhile wait in the socket's queue.
Under torchrun the agent hosts the store, and nothing of this applies.
"""

import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

from torch.distributed import DistError

from byzdist.errors import RunError
from byzdist.host.processes import die_with_parent, name_process
from byzdist.host.supervisor import ATTEMPT
from byzdist.torch_private import PrefixStore, Store, TCPStore
from byzdist.transport.sockets import keep_alive, open_files

log = logging.getLogger(__name__)
Connect = Callable[[float], Store]  # opens a connection for the calling process, within this many seconds
SOCKET = "BYZDIST_STORE_SOCKET"  # the descriptor of a listening socket, if the launcher has chosen the port
SERIES = "BYZDIST_SERIES"  # the number of this run, in a job whose script trains several times
STORE_PATIENCE = 300.0  # seconds to wait for the store: ranks of one job may start minutes apart
_MEMORY = 256 << 20  # bytes that a store may take, beyond what the run stores
_FILES = 16, 256  # descriptors of the store for each worker, and for strangers
_SPARE_MEMORY, _SPARE_FILES = 64 << 20, 16  # a store that is this close to its limits counts as full
_QUEUE = 4096  # connections that may wait for the store
_keepers: list[int] = []  # of the stores that this process hosts
_GLANCE, _PAUSE = 0.02, 0.1  # seconds between two tries to connect, and between two looks at the store's process


class NoStore(RunError):
    """No store can be reached."""


def host(workers: int, memory: int = 0) -> Callable[[], None]:
    """Fork the keeper of a store with room for a number of workers and ``memory`` bytes; return what ends it.

    No thread may run yet. The keeper also ends with this process. Nothing is done if torchrun's agent hosts a store.

    Raises:
        RunError: if nobody can listen at MASTER_ADDR:MASTER_PORT.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return lambda: None
    listening = _listen()
    server = os.getpid()
    if keeper := os.fork():
        listening.close()
        _keepers.append(keeper)
        return lambda: _end(keeper)
    try:
        die_with_parent(server)
        name_process("byzdist-store")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C is the server's to handle
        _keep(listening, server, workers, _MEMORY + memory)
    finally:
        os._exit(1)


def dismiss() -> None:
    """End the store that this process hosts, if it does, between two runs of one job; its ranks then wait for the next store."""
    while _keepers:
        _end(_keepers.pop())


def _end(keeper: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(keeper, signal.SIGKILL)  # the store ends with it
        os.waitpid(keeper, 0)


def _listen() -> socket.socket:
    """Return the socket at which the store listens: the launcher's, else one at MASTER_ADDR alone."""
    if (given := os.environ.get(SOCKET)) is not None:
        return socket.socket(fileno=int(given))
    name, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        for family, kind, _, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
            listening = socket.socket(family, kind)
            try:
                return _bind(listening, address)
            except OSError as error:
                listening.close()
                if error.errno != errno.EADDRNOTAVAIL:  # otherwise it belongs to something in between, such as a NAT
                    raise
        log.warning("MASTER_ADDR %s is not an address of this host: the store listens at all of its addresses", name)
        return _bind(socket.socket(), ("", port))
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"no store can listen at MASTER_ADDR:MASTER_PORT = {name}:{port}: {reason}.") from None


def _bind(listening: socket.socket, address: Any) -> socket.socket:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(address)
    listening.listen(_QUEUE)
    return listening


def _keep(listening: socket.socket, server: int, workers: int, memory: int) -> NoReturn:
    """Start the store, and a new one whenever it has ended or is full, until the server is gone."""
    keeper, store = os.getpid(), 0
    keep_alive({listening.fileno()})  # accepted connections inherit it, so that vanished peers keep no descriptors
    each, strangers = _FILES
    files, space = each * workers + strangers, _size(keeper) + memory
    while os.getppid() == server:
        if not store:
            store = os.fork()
            if not store:
                die_with_parent(keeper)
                _limit(files, space)
                _serve(listening)
        time.sleep(_PAUSE)
        if _is_full(store, files, space):  # it would refuse everybody, and never recover
            os.kill(store, signal.SIGKILL)
            os.waitpid(store, 0)
            store = 0
        elif os.waitpid(store, os.WNOHANG) != (0, 0):
            store = 0
    os._exit(0)


def _size(process: int) -> int:
    """Return the bytes of a process's address space; 0 if the system does not show them (Linux does)."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
    return 0


def _is_full(store: int, files: int, space: int) -> bool:
    """Return whether a store is close to its limits."""
    with contextlib.suppress(OSError):
        return _size(store) > space - _SPARE_MEMORY or len(os.listdir(f"/proc/{store}/fd")) > files - _SPARE_FILES
    return False


def _limit(files: int, space: int) -> None:
    """Limit this process to what a store needs, and make it the first one that the kernel ends when memory is short."""
    with contextlib.suppress(OSError):  # Linux only
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        _lower(resource.RLIMIT_AS, space)
    _lower(resource.RLIMIT_NOFILE, files)
    _lower(resource.RLIMIT_CORE, 0)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # strangers must not fill the log


def _lower(what: int, limit: int) -> None:
    _, hard = resource.getrlimit(what)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(what, (limit, limit))


def _serve(listening: socket.socket) -> NoReturn:
    """Be the store; torch's store serves from a thread of its own."""
    address, port = listening.getsockname()[:2]
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    store = TCPStore(address, port, None, True, wait_for_workers=False, master_listen_fd=listening.detach())
    while store:
        time.sleep(3600)
    os._exit(0)


def connect(patience: float) -> Store:
    """Return a connection of this process's own to the job's store.

    Raises:
        NoStore: if there is none at MASTER_ADDR:MASTER_PORT within ``patience`` seconds.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    until = time.monotonic() + patience
    _await(address, port, until)
    before = open_files()
    try:
        left = timedelta(seconds=max(until - time.monotonic(), 1.0))
        store = TCPStore(address, port, None, False, left, wait_for_workers=False)
    except (DistError, RuntimeError) as error:
        raise _no_store(address, port, str(error).splitlines()[0]) from None
    keep_alive(open_files() - before)
    return PrefixStore(f"byzdist/{os.environ.get(ATTEMPT, '0')}/{os.environ.get(SERIES, '0')}", store)


def _await(address: str, port: int, until: float) -> None:
    """Wait until the store listens. torch's own client tries seconds apart, and logs each try with a stack trace."""
    while True:
        try:
            left = max(until - time.monotonic(), _GLANCE)
            with socket.create_connection((address, port), timeout=left):
                return
        except OSError as error:
            if time.monotonic() > until:
                raise _no_store(address, port, str(error.strerror or error)) from None
        time.sleep(_GLANCE)


def _no_store(address: str, port: int, reason: str) -> NoStore:
    return NoStore(f"no store answers at MASTER_ADDR:MASTER_PORT = {address}:{port}: {reason}")
