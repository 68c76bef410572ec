"""The channel from the server's process to the caller's: the user's function runs where the user called `byzdist.train`."""

import json
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

from byzdist.reporting.record import RoundRecord

_BLOCK = 1 << 16  # bytes
_GO_ON, _STOP = b"\0", b"\1"


class Channel:
    """A pair of sockets, made before the server is forked; it stays open when the server is started again.

    Args:
        hear: called in the caller's process with each record; it returns whether the run must end.
    """

    def __init__(self, hear: Callable[[RoundRecord], bool]) -> None:
        self._hear = hear
        self._callers, self._servers = socket.socketpair()
        self._heard = bytearray()

    def close(self) -> None:
        """Close both ends, in a process that uses neither."""
        self._callers.close()
        self._servers.close()

    def be_server(self) -> None:
        """Keep only the server's end, because the caller's death is noticed only if no other process has the caller's end open."""
        self._callers.close()

    def ask(self, record: RoundRecord) -> bool:
        """Server: send a round's record to the caller; return whether the run must end, because the caller says so or is gone."""
        try:
            # the first line break ends the incomplete line of an earlier server that was killed
            self._servers.sendall(b"\n" + json.dumps(asdict(record)).encode() + b"\n")
            return self._servers.recv(1) != _GO_ON
        except OSError:
            return True

    def listen(self, seconds: float) -> None:
        """Caller: wait at most this long for records, and answer those that come."""
        if not select.select([self._callers], [], [], seconds)[0]:
            return
        self._heard += self._callers.recv(_BLOCK)
        *lines, rest = self._heard.split(b"\n")
        self._heard = bytearray(rest)
        for line in filter(None, lines):
            with suppress(ValueError):  # an incomplete line
                record = _record(bytes(line))
                self._callers.sendall(_STOP if self._hear(record) else _GO_ON)


def _record(line: bytes) -> RoundRecord:
    fields = json.loads(line)
    missing = {int(client): why for client, why in fields.pop("missing").items()}
    return RoundRecord(**fields, missing=missing)
