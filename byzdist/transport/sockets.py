"""Settings for the sockets of torch and gloo, which offer none: how long a peer may be silent, and who may connect.

They are set from outside, on the descriptors that have appeared in this process (on Linux; elsewhere nothing is done).
"""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator

_FILES = "/proc/self/fd"
_SILENCE = 30  # seconds: a connection breaks if the kernel at the other end does not answer for so long
_KEEP_ALIVE = [
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


def address_towards(host: str) -> str | None:
    """Return this host's own address on the way to another, loopback if that is this host; None if unknown."""
    try:
        family, kind, _, _, there = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:  # a datagram socket sends nothing when it connects
            probe.connect(there)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def open_files() -> set[int]:
    """Return this process's descriptors, if the system shows them (Linux)."""
    found = set[int]()
    for number in os.listdir(_FILES) if os.path.isdir(_FILES) else []:
        with contextlib.suppress(OSError):  # the descriptor of the listing itself, closed by now
            os.fstat(int(number))
            found.add(int(number))
    return found


def refuse_connections(files: set[int]) -> None:
    """Have the kernel drop all new connections to the listening sockets among these descriptors.

    gloo keeps listening as long as the link lasts, and whoever connects takes a descriptor. When gloo runs out of descriptors, it
    aborts the process.
    """
    for held in _sockets(files):
        with contextlib.suppress(OSError):  # a kernel without such filters
            if held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                held.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _FILTER)


def keep_alive(files: set[int]) -> None:
    """Have the kernel ask regularly whether the other ends are still there, and break a connection if nobody answers.

    Otherwise an end that lost the network for a while could wait forever on a connection that the other end has closed.
    """
    for held in _sockets(files):
        for level, option, value in _KEEP_ALIVE:
            with contextlib.suppress(OSError):  # not a TCP socket
                held.setsockopt(level, option, value)


def connections(files: set[int]) -> dict[int, int]:
    """Return which of the descriptors are open connections, each with the number by which the kernel knows the connection."""
    found = {}
    for held in _sockets(files):
        with contextlib.suppress(OSError):  # not a TCP socket, or one that only listens
            held.getpeername()
            found[held.fileno()] = os.fstat(held.fileno()).st_ino
    return found


def are_open(connections: dict[int, int]) -> bool:
    """Return whether none of these connections was closed by the library that opened it."""
    try:
        return all(os.fstat(number).st_ino == inode for number, inode in connections.items())
    except OSError:
        return False


def _sockets(files: set[int]) -> Iterator[socket.socket]:
    """Yield the sockets among descriptors; the libraries that opened them will close them."""
    for number in files:
        with contextlib.suppress(OSError):  # not a socket, or closed meanwhile
            held = socket.socket(fileno=number)
            try:
                yield held
            finally:
                held.detach()
