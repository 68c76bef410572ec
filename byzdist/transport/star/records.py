"""What the server and its gateways tell each other: records of a fixed size, which a pipe never splits."""

import struct
from dataclasses import dataclass
from enum import IntEnum

from byzdist.transport.wire import Kind


class ReportKind(IntEnum):
    """What a gateway tells the server."""

    JOINED = 1
    REPLY = 2  # ``text`` is not empty if the client had remembered nothing
    OFFENCE = 3  # a malformed reply; this report takes its place
    IDLE = 4  # the round was over before the gateway could pass the request on
    LOST = 5  # the link broke
    EXPELLED = 6  # the link broke because of what the worker sent, which may have aborted the gateway
    ENDED = 7  # the gateway's process has ended: from now on nothing writes to the rows of its replies
    ORDER_DONE = 8  # a RESUME or SAVE is done; ``client`` is the `Stage`


@dataclass(frozen=True)
class Report:
    """One record of the shared pipe; ``generation`` counts a worker's gateways, so that the server knows reports of earlier ones."""

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
    """What the server tells one gateway to do: pass a message on, or end.

    Attributes:
        length: the bytes of each reply's payload, or the length that an order's header names.
        cohort: the size of the cohort.
        flags: which models go with the request; x^{k-1} only if the worker lacks it.
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
        """Return the command that ends a gateway."""
        return cls(generation, Kind.STOP)

    def pack(self) -> bytes:
        """Return the record."""
        return self._LAYOUT.pack(self.generation, self.kind, self.round, self.length, self.cohort, self.flags)

    @classmethod
    def unpack(cls, record: bytes) -> "Command":
        """Read a record."""
        generation, kind, *rest = cls._LAYOUT.unpack(record)
        return cls(generation, Kind(kind), *rest)
