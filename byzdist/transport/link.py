"""A link: the two-rank process group of the server and one worker, and how its two ends find and recognise each other.

They meet at the job's store, under keys of the worker's rank, and prove to each other who they are before either opens
a port. The group then meets under a prefix that nobody can guess, and its first messages repeat the proof, so that
whoever reads the prefix in the store, or gets in between them at the open port, is found out. Once the link is open its
ports are deaf. A server's note under ``closed`` tells a worker that it need not try.
"""

import contextlib
import ctypes
import encodings.idna  # noqa: F401 - looking up names imports it: better here than in every gateway's own memory
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor
from torch.distributed import DistError, DistStoreError

from byzdist.errors import RunError
from byzdist.torch_private import PrefixStore, ProcessGroupGloo, Store, TCPStore, Work
from byzdist.transport.identity import (
    IdentityError,
    ServerSide,
    WorkerSide,
    confirmation,
    meeting,
    seal,
    unseal,
)

FOREVER = timedelta(days=7)
BRIEF = timedelta(seconds=5)  # for what the store has at hand, unless somebody deletes it just then
END = "the run is over"
_MESSAGES, _LIFE = 0, 1  # tags: requests and replies; nothing ever, see `Link.watch`
_MEETING = timedelta(seconds=20)  # for the steps of a meeting once both ends are known to be there
_GLANCE, _REPEAT = 0.02, 1.0  # seconds between two looks at the store, and between two hellos
_FILES = "/proc/self/fd"
_SILENCE = 30  # seconds without a sign of life from the kernel at the other end that break a connection
_TOUCH = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", _SILENCE // 3),
            ("TCP_KEEPINTVL", _SILENCE // 6),
            ("TCP_KEEPCNT", 4),
            ("TCP_USER_TIMEOUT", 1000 * _SILENCE),
        )
        if hasattr(socket, name)
    ),
]
_SO_ATTACH_FILTER = 26  # Linux's
_DROP = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # one instruction of BPF's, "return 0": drop it
_FILTER = struct.pack("HL", 1, ctypes.addressof(_DROP))
_making_devices = threading.Lock()


def connect(*, host: bool, patience: float) -> Store:
    """Return a connection of this process's own to the job's store; ``host`` starts the store where no agent has.

    Raises:
        RunError: if there is no store at MASTER_ADDR:MASTER_PORT.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    host = host and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    before = _open_files()
    try:
        store = TCPStore(address, port, None, host, timedelta(seconds=patience), wait_for_workers=False)
    except (DistError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"no store at MASTER_ADDR:MASTER_PORT = {address}:{port} after {patience:g} s: {reason}"
        ) from None
    _stay_in_touch(_open_files() - before)
    return PrefixStore(f"byzdist/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def await_store(patience: float) -> None:
    """Wait until the store listens. Its own client tries seconds apart, and logs each try with a stack trace."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            with socket.create_connection(address, timeout=patience):
                return
        time.sleep(_GLANCE)


class Connect(Protocol):
    """Opens a connection of the calling process's own to the job's store, or hosts it."""

    def __call__(self, *, host: bool) -> Store:
        """Return the connection."""


class LinkLost(Exception):
    """The other end is gone, or silent beyond all patience."""


class Intrusion(Exception):
    """The worker sent what no worker sends."""


class Link:
    """One end of an open link."""

    def __init__(self, group: Any, peer: int) -> None:  # a ProcessGroupGloo; its stub lacks send and recv
        self._group, self._peer = group, peer

    def post_send(self, message: Tensor) -> Work:
        """Start to send; call `finish`, for gloo may never deliver a message whose work is dropped."""
        return self._guard(lambda: self._group.send([message], self._peer, _MESSAGES))

    def post_receive(self, buffer: Tensor) -> Work:
        """Start to receive a message of at most the buffer's size; a longer one aborts this process."""
        return self._guard(lambda: self._group.recv([buffer], self._peer, _MESSAGES))

    def finish(self, work: Work, patience: timedelta = FOREVER) -> None:
        """Wait for a work.

        Raises:
            LinkLost: if the link broke; it does where ``patience`` ends.
        """
        self._guard(lambda: work.wait(patience))

    def send(self, message: Tensor) -> None:
        """Send and wait."""
        self.finish(self.post_send(message))

    def receive(self, buffer: Tensor) -> None:
        """Receive and wait."""
        self.finish(self.post_receive(buffer))

    def watch(self) -> NoReturn:
        """Block until the link breaks; for a thread that does nothing else.

        Raises:
            LinkLost: because it broke.
            Intrusion: because the other end sent a message that nobody asked for.
        """
        self._guard(lambda: self._group.recv([torch.zeros(1, dtype=torch.uint8)], self._peer, _LIFE).wait(FOREVER))
        raise Intrusion("sent a message that nobody asked for")

    def _guard(self, action: Callable[[], object]) -> Work:
        try:
            return action()  # type: ignore[return-value]
        except RuntimeError as error:
            raise LinkLost(_reason(error)) from None


def _reason(error: RuntimeError) -> str:
    text = str(error).splitlines()[0]
    for sign, reason in (("Timed out", "silent"), ("timeout", "silent"), ("onnect", "connection closed")):
        if sign in text:
            return reason
    return text


@lru_cache(maxsize=1)
def where_to_listen() -> list[dict[str, str]]:
    """Return gloo's addresses: of GLOO_SOCKET_IFNAME, else this host's own on the way to the store ([]: by its name).

    The server asks before it forks its gateways, for looking up names takes more memory than all else they do.
    """
    if names := os.environ.get("GLOO_SOCKET_IFNAME"):
        return [{"interface": name} for name in names.split(",")]
    address = address_towards(os.environ["MASTER_ADDR"])
    return [{"hostname": address}] if address else []


def address_towards(host: str) -> str | None:
    """Return this host's own address on the way to another, loopback where that is itself; None if unknown."""
    try:
        family, kind, _, _, there = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:  # a datagram socket sends nothing when it connects
            probe.connect(there)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _open(store: Store, session: bytes, me: int) -> Link:
    """Open the group and exchange the first messages; ``me`` is 0 for the server and 1 for the worker."""
    options: Any = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices, files = _devices()
    options._threads, options._timeout = 1, _MEETING
    before = _open_files()
    try:
        link = Link(ProcessGroupGloo(PrefixStore(meeting(session), store), me, 2, options), 1 - me)
    except RuntimeError as error:
        raise LinkLost(f"no connection: {_reason(error)}") from None
    _stay_in_touch(_open_files() - before)
    roles = "server", "worker"
    theirs = torch.zeros(len(session), dtype=torch.uint8)
    receiving = link.post_receive(theirs)
    link.finish(link.post_send(_bytes(confirmation(session, roles[me]))), _MEETING)
    link.finish(receiving, _MEETING)
    if theirs.numpy().tobytes() != confirmation(session, roles[1 - me]):
        raise IdentityError("the link leads to somebody else")
    _deafen(files)
    return link


def _devices() -> tuple[list[Any], set[int]]:
    """Return gloo's devices, and the descriptors that they have opened."""
    with _making_devices:
        before = _open_files()
        devices = [ProcessGroupGloo.create_device(**where) for where in where_to_listen()]
        return devices or [ProcessGroupGloo.create_default_device()], _open_files() - before


def _open_files() -> set[int]:
    """Return this process's descriptors, where the system shows them (Linux)."""
    found = set[int]()
    for number in os.listdir(_FILES) if os.path.isdir(_FILES) else []:
        with contextlib.suppress(OSError):  # the listing's own, which is closed by now: its number is free again
            os.fstat(int(number))
            found.add(int(number))
    return found


def _deafen(files: set[int]) -> None:
    """Let the listening sockets hear nobody any more: a gloo that runs out of file descriptors aborts its process.

    It keeps them open as long as the link, and whoever connects takes a descriptor, and keeps it.
    """
    for held in _sockets(files):
        with contextlib.suppress(OSError):  # a kernel without such filters
            if held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                held.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _FILTER)


def _stay_in_touch(files: set[int]) -> None:
    """Let the kernel ask now and then whether the other ends are still there, and break a connection that nobody answers.

    An end that was cut off the network for a while would else wait for ever on a connection of which the other end knows
    nothing any more.
    """
    for held in _sockets(files):
        for level, option, value in _TOUCH:
            with contextlib.suppress(OSError):  # of another kind than TCP
                held.setsockopt(level, option, value)


def _sockets(files: set[int]) -> Iterator[socket.socket]:
    """Yield the sockets among descriptors that others have opened, and will close."""
    for number in files:
        with contextlib.suppress(OSError):  # no socket, or closed meanwhile
            held = socket.socket(fileno=number)
            try:
                yield held
            finally:
                held.detach()


def _bytes(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _put(store: Store, key: str, value: bytes) -> None:
    store.set(key, value)  # type: ignore[arg-type]  # the stub knows only of strings


def _read(store: Store, key: str) -> bytes | None:
    """Return a key's value; None where there is none, or somebody deletes it at this moment."""
    if store.check([key]):
        with contextlib.suppress(DistStoreError):
            return store.get(key)
    return None


def _wait(store: Store, key: str, patience: float, unless: Callable[[], bool] = lambda: False) -> bytes | None:
    """Return a key's value; None if it is not there in time. The store's own wait would log every timeout."""
    until = time.monotonic() + patience
    while (value := _read(store, key)) is None and time.monotonic() < until and not unless():
        time.sleep(_GLANCE)
    return value


def accept(store: Store, rank: int, key: bytes, dismissed: Callable[[], int]) -> Link | None:
    """The server's side: wait until worker ``rank`` has joined; None once ``dismissed`` says not to wait."""
    store.set_timeout(BRIEF)
    while not dismissed():
        if (hello := _wait(store, f"{rank}/hello", _REPEAT)) is None:
            continue
        store.delete_key(f"{rank}/hello")
        with contextlib.suppress(IdentityError, LinkLost):
            side = ServerSide(key, hello)
            _put(store, f"{side.name}/answer", side.answer)
            another = partial(_says_another, store, rank, key, hello)
            proof = _wait(store, f"{side.name}/proof", _MEETING.total_seconds(), unless=another)
            for step in ("answer", "proof"):
                store.delete_key(f"{side.name}/{step}")
            if proof is None:
                continue
            link = _open(store, side.accept(proof), 0)
            store.delete_key(f"{rank}/hello")  # said once more while the answer was on its way
            return link
    return None


def _says_another(store: Store, rank: int, key: bytes, hello: bytes) -> bool:
    """Return whether the worker has begun anew since it said ``hello``: the one that said it may be dead."""
    fresh = _read(store, f"{rank}/hello")
    if fresh in (None, hello):
        return False
    with contextlib.suppress(IdentityError):  # anybody can write into the store
        ServerSide(key, fresh)
        return True
    return False


def join(store: Store, rank: int, key: bytes, patience: float, stays: Callable[[], bool]) -> Link | None:
    """The worker's side: join as ``rank``; None if the run is over, or once ``stays`` says so.

    Raises:
        RunError: if nobody who knows the run's secret answers within ``patience`` seconds, or the server will not have
        this worker.
    """
    until = time.monotonic() + patience
    side = WorkerSide(key)
    try:
        while time.monotonic() < until:
            if not stays():
                return None
            note = read_note(store, rank, key)
            if note == END:
                return None
            if note:
                raise RunError(f"the server will not have worker rank {rank}: {note}.")
            _put(store, f"{rank}/hello", side.hello)  # again and again, for others can overwrite it
            if (answer := _wait(store, f"{side.name}/answer", _REPEAT)) is None:
                continue
            with contextlib.suppress(IdentityError, LinkLost):
                proof, session = side.prove(answer)
                _put(store, f"{side.name}/proof", proof)
                return _open(store, session, 1)
            side = WorkerSide(key)
    except DistError as error:
        raise RunError(f"the server is gone: {str(error).splitlines()[0]}") from None
    raise RunError(
        f"no server let worker rank {rank} in within {patience:g} s: it is gone, holds a live link to another process "
        "of this rank, or has another run secret."
    )


def leave_note(store: Store, rank: int, key: bytes, text: str) -> None:
    """Tell a worker, now or whenever it comes, that it need not join: `END`, or why the server will not have it."""
    _put(store, f"{rank}/closed", seal(key, text))


def read_note(store: Store, rank: int, key: bytes) -> str | None:
    """Return the note that the server left for a worker."""
    if (note := _read(store, f"{rank}/closed")) is not None:
        with contextlib.suppress(IdentityError):  # anybody can write into the store
            return unseal(key, note)
    return None
