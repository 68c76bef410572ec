"""What the server and its gateways tell each other: records of a fixed size, each of which a pipe takes whole."""

import struct
from dataclasses import dataclass
from enum import IntEnum

from byzdist.transport.wire import Kind


class ReportKind(IntEnum):
    """What a gateway tells the server."""

    JOINED = 1
    REPLY = 2  # ``text`` is not empty where the client had remembered nothing
    OFFENCE = 3  # a reply that is not what it should be; it takes the reply's place
    IDLE = 4  # the round was over before the request could be passed on
    LOST = 5  # the link broke
    EXPELLED = 6  # the link broke because of what the worker sent, which may have aborted the gateway
    ENDED = 7  # the gateway's process has ended: from now on nothing writes to the rows of its replies
    ORDER_DONE = 8  # an order that is no request; ``client`` is the `Stage`


@dataclass(frozen=True)
class Report:
    """One record of the shared pipe; ``generation`` counts a worker's gateways, so that the past is not taken for the present."""

    what: ReportKind
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
    def unpack(cls, record: bytes) -> "Report":
        """Read a record."""
        what, rank, generation, client, text = cls._LAYOUT.unpack(record)
        return cls(ReportKind(what), rank, generation, client, text.rstrip(b"\0").decode())


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
