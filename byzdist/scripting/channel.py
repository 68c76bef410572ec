"""How the server's process asks the caller's after each round: the user's function runs where the user called `byzdist.train`."""

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
    """A pair of sockets that is made before the server is forked, and outlives a server that is started again.

    Args:
        hear: is called in the caller's process with each record; returns whether the run is to end.
    """

    def __init__(self, hear: Callable[[RoundRecord], bool]) -> None:
        self._hear = hear
        self._callers, self._servers = socket.socketpair()
        self._heard = bytearray()

    def close(self) -> None:
        """Close both ends, in a process that needs neither."""
        self._callers.close()
        self._servers.close()

    def be_server(self) -> None:
        """Keep the server's end alone, so that the caller's death is seen."""
        self._callers.close()

    def ask(self, record: RoundRecord) -> bool:
        """Server: tell the caller of a round and return whether the run is to end; where the caller is gone it is."""
        try:
            self._servers.sendall(
                b"\n" + json.dumps(asdict(record)).encode() + b"\n"
            )  # the first one ends a line that a dead server began
            return self._servers.recv(1) != _GO_ON
        except OSError:
            return True

    def listen(self, seconds: float) -> None:
        """Caller: answer for so long, or until the first answer."""
        if not select.select([self._callers], [], [], seconds)[0]:
            return
        self._heard += self._callers.recv(_BLOCK)
        *lines, rest = self._heard.split(b"\n")
        self._heard = bytearray(rest)
        for line in filter(None, lines):
            with suppress(ValueError):  # the begin of a line
                record = _record(bytes(line))
                self._callers.sendall(_STOP if self._hear(record) else _GO_ON)


def _record(line: bytes) -> RoundRecord:
    fields = json.loads(line)
    missing = {int(client): why for client, why in fields.pop("missing").items()}
    return RoundRecord(**fields, missing=missing)
