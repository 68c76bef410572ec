"""A link: the two-rank process group of the server and one worker, and how its two ends find and recognise each other.

They meet at the job's store (see transport/store.py), under keys of the worker's rank, and prove to each other who they are before either
opens a port. The server's answer also says what the worker must know of the run, or why it need not join: neither end believes
anything else in the store. The group then meets under a prefix that nobody can guess, and its first messages repeat the proof, so
that a stranger who reads the prefix in the store, or connects to the open port first, is found out. Once the link is open, its ports
take no new connections. When the run is over, the server leaves a note in the store for workers that have joined before.
"""

import contextlib
import encodings.idna  # noqa: F401 - looking up names imports it: imported here, gateways share its memory
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.distributed import DistError, DistStoreError

from byzdist.errors import RunError
from byzdist.torch_private import PrefixStore, ProcessGroupGloo, Store, Work
from byzdist.transport.sockets import address_towards, are_open, connections, keep_alive, open_files, refuse_connections
from byzdist.transport.star.handshake import (
    HandshakeError,
    ServerSide,
    WorkerSide,
    confirmation,
    meeting_prefix,
    seal,
    unseal,
)
from byzdist.transport.star.shared import OVER
from byzdist.transport.store import Connect, NoStore

log = logging.getLogger(__name__)
FOREVER = timedelta(days=7)
END = "the run is over"
BRIEF = timedelta(seconds=5)  # for an answer of the store, which waits for a key that was just deleted
SILENT = "silent"  # the reason of a `LinkLost` whose other end did not answer in time
_MESSAGES, _LIFE = 0, 1  # tags: of requests and replies; of a message that never comes, see `Link.watch`
_MEETING = timedelta(seconds=20)  # for each step of a meeting, once both ends are known to be there
_GLANCE, _REPEAT = 0.02, 1.0  # seconds between two looks at the store, and between two hellos
_making_devices = threading.Lock()
_STORE_PATIENCE = 2.0  # seconds for a connection to the store, before a worker checks whether it should go on


class LinkLost(Exception):
    """The other end is gone, or was silent for too long."""


class Intrusion(Exception):
    """The worker sent what no honest worker sends."""


class Link:
    """One end of an open link."""

    def __init__(self, group: Any, peer: int) -> None:  # a ProcessGroupGloo; its stub lacks send and recv
        self._group, self._peer = group, peer
        self._sockets: dict[int, int] = {}  # descriptors of the connection: gloo closes them as soon as it breaks

    def post_send(self, message: Tensor) -> Work:
        """Start to send; pass the work to `finish`, because gloo may never deliver a message whose work is dropped."""
        return self._guard(lambda: self._group.send([message], self._peer, _MESSAGES))

    def post_receive(self, buffer: Tensor) -> Work:
        """Start to receive a message of at most the buffer's size; a longer one aborts this process."""
        return self._guard(lambda: self._group.recv([buffer], self._peer, _MESSAGES))

    def finish(self, work: Work, patience: timedelta = FOREVER) -> None:
        """Wait until a work is done.

        Raises:
            LinkLost: if the link broke, as it does when ``patience`` is over.
        """
        self._guard(lambda: work.wait(patience))

    def send(self, message: Tensor) -> None:
        """Send and wait."""
        self.finish(self.post_send(message))

    def receive(self, buffer: Tensor) -> None:
        """Receive and wait."""
        self.finish(self.post_receive(buffer))

    @property
    def is_open(self) -> bool:
        """Whether the connection is there, as far as the system shows it (Linux)."""
        return bool(self._sockets) and are_open(self._sockets)

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
    for sign, reason in (("Timed out", SILENT), ("timeout", SILENT), ("onnect", "connection closed")):
        if sign in text:
            return reason
    return text


@lru_cache(maxsize=1)
def where_to_listen() -> list[dict[str, str]]:
    """Return gloo's addresses: of GLOO_SOCKET_IFNAME, else this host's own on the way to the store; [] lets gloo look up this host's name.

    The server asks before it forks its gateways, because looking up names takes more memory than all else that they do.
    """
    if names := os.environ.get("GLOO_SOCKET_IFNAME"):
        return [{"interface": name} for name in names.split(",")]
    address = address_towards(os.environ["MASTER_ADDR"])
    return [{"hostname": address}] if address else []


def _open(store: Store, session: bytes, me: int) -> Link:
    """Open the group and exchange the first messages; ``me`` is 0 for the server and 1 for the worker."""
    options: Any = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices, files = _devices()
    options._threads, options._timeout = 1, _MEETING
    before = open_files()
    try:
        link = Link(ProcessGroupGloo(PrefixStore(meeting_prefix(session), store), me, 2, options), 1 - me)
    except RuntimeError as error:
        raise LinkLost(f"no connection: {_reason(error)}") from None
    fresh = open_files() - before
    keep_alive(fresh)
    link._sockets = connections(fresh)
    roles = "server", "worker"
    theirs = torch.zeros(len(session), dtype=torch.uint8)
    receiving = link.post_receive(theirs)
    link.finish(link.post_send(_bytes(confirmation(session, roles[me]))), _MEETING)
    link.finish(receiving, _MEETING)
    if theirs.numpy().tobytes() != confirmation(session, roles[1 - me]):
        raise HandshakeError("the link leads to somebody else")
    refuse_connections(files)
    return link


def _devices() -> tuple[list[Any], set[int]]:
    """Return gloo's devices, and the descriptors that they have opened."""
    with _making_devices:
        before = open_files()
        devices = [ProcessGroupGloo.create_device(**where) for where in where_to_listen()]
        return devices or [ProcessGroupGloo.create_default_device()], open_files() - before


def _bytes(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _put(store: Store, key: str, value: bytes) -> None:
    store.set(key, value)  # type: ignore[arg-type]  # the stub knows only of strings


def _read(store: Store, key: str) -> bytes | None:
    """Return a key's value; None if there is none, or if it is being deleted."""
    if store.check([key]):
        with contextlib.suppress(DistStoreError):
            return store.get(key)
    return None


def _wait(store: Store, key: str, patience: float, unless: Callable[[], bool] = lambda: False) -> bytes | None:
    """Return a key's value; None if it is not there in time. The wait of torch's store would log every timeout."""
    until = time.monotonic() + patience
    while (value := _read(store, key)) is None and time.monotonic() < until and not unless():
        time.sleep(_GLANCE)
    return value


def welcome(attempt: str, facts: str) -> bytes:
    """Return what a worker is told when it may join: the unique name of this attempt of the server, and facts of the run."""
    return json.dumps({"attempt": attempt, "facts": facts}).encode()


@dataclass(frozen=True)
class Joined:
    """What a worker has once it has joined: the link, the name of this attempt of the server, and facts of the run."""

    link: Link
    attempt: str
    facts: str


def accept(
    store: Store, rank: int, key: bytes, welcome: bytes, dismissed: Callable[[], tuple[int, str]]
) -> Link | None:
    """The server's side: wait until worker ``rank`` has joined; None once ``dismissed`` says that the run is over.

    A worker that is dismissed for another reason is told that reason each time that it asks.
    """
    store.set_timeout(BRIEF)
    while (state := dismissed())[0] != OVER:
        if (hello := _wait(store, f"{rank}/hello", _REPEAT, unless=partial(_differs, dismissed, state))) is None:
            continue
        refused, reason = dismissed()
        store.delete_key(f"{rank}/hello")
        with contextlib.suppress(HandshakeError, LinkLost):
            side = ServerSide(key, hello, json.dumps({"refused": reason}).encode() if refused else welcome)
            _put(store, f"{side.store_key}/answer", side.answer)
            if refused:
                continue
            another = partial(_says_another, store, rank, key, hello)
            proof = _wait(store, f"{side.store_key}/proof", _MEETING.total_seconds(), unless=another)
            for step in ("answer", "proof"):
                store.delete_key(f"{side.store_key}/{step}")
            if proof is None:
                continue
            link = _open(store, side.accept(proof), 0)
            store.delete_key(f"{rank}/hello")  # the worker repeated it while the answer was on its way
            return link
    return None


def _differs(now: Callable[[], object], before: object) -> bool:
    return now() != before


def _says_another(store: Store, rank: int, key: bytes, hello: bytes) -> bool:
    """Return whether a newer hello than ``hello`` has come: the worker that sent the old one may be dead."""
    fresh = _read(store, f"{rank}/hello")
    if fresh in (None, hello):
        return False
    with contextlib.suppress(HandshakeError):  # anybody can write into the store
        ServerSide(key, fresh, b"")
        return True
    return False


def join(
    connect: Connect,
    rank: int,
    key: bytes,
    patience: float,
    stays: Callable[[], bool] = lambda: True,
    attempt: str = "",
    store_patience: float = 0.0,
) -> Joined | None:
    """The worker's side: join as ``rank``; None if the run is over, or once ``stays`` returns False.

    Args:
        connect: opens a connection to the store, and a new one whenever it breaks.
        rank: which worker this is.
        key: proves that it is that worker.
        patience: how long to try, in seconds.
        stays: returns whether to go on trying.
        attempt: the server's attempt that this worker joined before, or "".
        store_patience: how long to wait for a store that was never reached yet, in seconds.

    Raises:
        RunError: if nobody who knows this worker's key answers within ``patience`` seconds, or the server refuses
            this worker.
    """
    until, found = time.monotonic() + max(patience, store_patience), False
    why = "it is gone, holds a live link to another process of this rank, or has another key for it"
    while stays() and (left := until - time.monotonic()) > 0:
        try:
            store = connect(min(left, _STORE_PATIENCE))
            store.set_timeout(BRIEF)
            if not found:
                until, found = time.monotonic() + patience, True
            return _meet(store, rank, key, until, stays, attempt)
        except (DistError, NoStore) as error:  # the store is being started again, or cannot be reached for a while
            why = str(error).splitlines()[0]
            time.sleep(_GLANCE)
        except TimeoutError:
            break
    if not stays():
        return None
    raise RunError(f"no server let worker rank {rank} in within {patience:g} s: {why}.")


def _meet(store: Store, rank: int, key: bytes, until: float, stays: Callable[[], bool], attempt: str) -> Joined | None:
    """Say hello until the server lets this worker in; see `join`.

    Raises:
        DistError: if the store is gone.
        TimeoutError: if nobody has answered by then.
    """
    side = WorkerSide(key)
    while time.monotonic() < until:
        if not stays() or (attempt and read_note(store, rank, key, attempt) == END):
            return None
        _put(store, f"{rank}/hello", side.hello)  # repeated, because others can overwrite it
        if (answer := _wait(store, f"{side.store_key}/answer", _REPEAT)) is None:
            continue
        try:
            proof, session, told = side.prove(answer)
            said = json.loads(told)
            if "refused" in said:
                raise RunError(f"the server refuses worker rank {rank}: {said['refused']}.")
            _put(store, f"{side.store_key}/proof", proof)
            return Joined(_open(store, session, 1), said["attempt"], said["facts"])
        except HandshakeError as error:
            log.warning("somebody else answered in the server's place (%s); trying again", error)
        except LinkLost as lost:
            log.info("%s; trying again", lost)
        side = WorkerSide(key)
    raise TimeoutError


def leave_note(store: Store, rank: int, key: bytes, attempt: str, text: str) -> None:
    """Tell a worker that joined in this attempt of the server, when it next looks: `END`, for example."""
    _put(store, f"{rank}/closed", seal(key, attempt, text))


def read_note(store: Store, rank: int, key: bytes, attempt: str) -> str | None:
    """Return the note that the server left for a worker in this attempt, None if there is none."""
    if (note := _read(store, f"{rank}/closed")) is not None:
        with contextlib.suppress(HandshakeError):  # anybody can write into the store
            return unseal(key, attempt, note)
    return None
