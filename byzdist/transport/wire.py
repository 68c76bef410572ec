"""Message layout: a fixed header, then the payload; nothing is ever unpickled.

A request is ``header | cohort ids | x^k | x^{k-1}``; the last part, or both models, are left out if the worker does not
need them. There is room for the ids of a sampled cohort, so that the model always starts at the same byte and both ends
keep lasting views of it; the many ids of a full round that lacks some clients travel in a message of their own. An id may be
marked, which tells that client to start afresh. A reply is ``header | payload``, one per client.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

HEADER_BYTES = 64
_MAGIC = b"BZ"
_VERSION = 1
# Magic, version, kind, round, client or cohort size, flags, payload bytes, checksum.
_LAYOUT = struct.Struct("<2sBBIIIQQ")


class Kind(IntEnum):
    """What a message is about."""

    SAMPLED = 1
    FULL = 2
    STOP = 3
    REPLY = 4
    RESUME = 5  # the run continues after this round: clients restore what they remembered then
    SAVE = 6  # put on disk what clients remember; ``length`` is the oldest round whose files are still needed
    SAVED = 7  # how far the worker is with that; ``count`` is the `Stage`


class WireError(ValueError):
    """A malformed or unexpected message; the text becomes the reason in the metrics."""


@dataclass(slots=True)
class Header:
    """The first 64 bytes of a message; ``count`` is the cohort's size in a request and the client's id in a reply."""

    kind: Kind
    round: int
    count: int
    flags: int = 0
    length: int = 0
    checksum: int = 0

    def write(self, message: Tensor) -> None:
        """Write the header over the first bytes of ``message`` (uint8, on the CPU)."""
        fields = self.kind, self.round, self.count, self.flags, self.length, self.checksum
        _LAYOUT.pack_into(message.numpy().data, 0, _MAGIC, _VERSION, *fields)

    @classmethod
    def read(cls, message: Tensor) -> "Header":
        """Read the header of ``message``.

        Raises:
            WireError: if the bytes are not a header of this version.
        """
        magic, version, kind, round_, count, flags, length, checksum = _LAYOUT.unpack_from(message.numpy().data)
        if magic != _MAGIC or version != _VERSION:
            raise WireError("no byzdist message")
        if kind not in _KINDS:
            raise WireError(f"unknown message kind {kind}")
        return cls(Kind(kind), round_, count, flags, length, checksum)


_KINDS = frozenset(Kind)


def bare_message(kind: Kind, round_: int, count: int = 0, length: int = 0) -> Tensor:
    """Return a message (uint8, on the CPU) that is a header and nothing more: an order to save, or the answer to it."""
    message = torch.zeros(HEADER_BYTES, dtype=torch.uint8)
    Header(kind, round_, count, length=length).write(message)
    return message


HAS_MODEL, HAS_PREVIOUS, MANY_IDS, MARKED_IDS = 1, 2, 4, 8  # request flags
_MARK = np.uint32(1 << 31)  # of an id in a request with MARKED_IDS: this client starts afresh
AFRESH = 1  # reply flag: the client remembered nothing before this round


def checksum(payload: Tensor) -> int:
    """Return the sum of the payload's 64-bit words modulo 2**64, which any single flipped bit changes.

    It finds accidental damage at the speed of memory; a hostile sender can always make it match.
    """
    raw = payload.numpy()
    whole = raw.size // 8 * 8
    total = int(np.add.reduce(raw[:whole].view(np.uint64)))
    if whole == raw.size:
        return total
    return (total + int.from_bytes(raw[whole:].tobytes(), "little")) % 2**64


def round_up(size: int, unit: int) -> int:
    """Return the smallest multiple of ``unit`` that is at least ``size``."""
    return -(-size // unit) * unit


class RequestFrame:
    """The buffer of one request, with lasting views of its parts.

    On the CPU, header, ids and models are one buffer and so one message. On a GPU, or if the caller gives a buffer for the
    ``models`` (2 d values), the models travel as a message of their own.

    Args:
        dimension: d.
        inline_ids: the number of ids that fit before the model.
        clients: how many there are, the most that a request may name.
        pinned: whether the message is locked in memory, so that a GPU copies from and to it directly.

    Attributes:
        current: x^k, d values of the run's dtype.
        previous: x^{k-1}, d values; it follows ``current`` without a gap.
    """

    def __init__(
        self,
        dimension: int,
        inline_ids: int,
        clients: int,
        dtype: torch.dtype,
        device: torch.device,
        models: Tensor | None = None,
        pinned: bool = False,
    ) -> None:
        self._apart = device.type != "cpu" or models is not None
        self._model_at = HEADER_BYTES + round_up(4 * inline_ids, HEADER_BYTES)
        self._model_bytes = dimension * dtype.itemsize
        size = self._model_at + 2 * self._model_bytes * (not self._apart)
        self.buffer = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
        if models is not None:
            self._models = models
        elif self._apart:
            self._models = torch.zeros(2 * dimension, dtype=dtype, device=device)
        else:
            self._models = self.buffer[self._model_at :].view(dtype)
        self.current, self.previous = self._models[:dimension], self._models[dimension:]
        self._ids = self.buffer[HEADER_BYTES : self._model_at].numpy().view(np.uint32)
        self._many_ids = torch.zeros(4 * clients if clients > len(self._ids) else 0, dtype=torch.uint8)

    def pack(
        self,
        kind: Kind,
        round_: int,
        cohort: np.ndarray,
        *,
        everyone: bool,
        flags: int,
        afresh: Collection[int] = (),
    ) -> list[Tensor]:
        """Write header and cohort and return the tensors to send.

        Args:
            kind: what the message is.
            round_: the round that it is about.
            cohort: the ids of the clients that are asked, ascending.
            everyone: whether the cohort is all clients; the ids are then left out, unless some are marked.
            flags: which models go along.
            afresh: which clients are told to start afresh; their ids are marked.
        """
        marked = np.isin(cohort, list(afresh)) if afresh else None
        if marked is not None and marked.any():
            everyone, flags = False, flags | MARKED_IDS
        count = 0 if everyone else len(cohort)  # of ids to send
        flags |= MANY_IDS * (count > len(self._ids))
        ids = self._many_ids.numpy().view(np.uint32) if flags & MANY_IDS else self._ids
        ids[:count] = cohort[:count]
        if marked is not None:
            ids[:count][marked[:count]] |= _MARK
        models = (flags & HAS_MODEL > 0) + (flags & HAS_PREVIOUS > 0)
        end = self._model_at + models * self._model_bytes
        if self._apart or not models:
            end = HEADER_BYTES + 4 * count * (not flags & MANY_IDS)
        Header(kind, round_, len(cohort), flags, end - HEADER_BYTES).write(self.buffer)
        return [self.buffer[:end], *self.parts_apart(flags)]

    def parts_apart(self, flags: int) -> list[Tensor]:
        """Return what follows the first message of a request with these flags: models that are apart, and many ids."""
        parts = []
        if self._apart and flags & HAS_MODEL:
            parts.append(self._models if flags & HAS_PREVIOUS else self.current)
        if flags & MANY_IDS:
            parts.append(self._many_ids)
        return parts

    def cohort(self, header: Header, clients: int) -> tuple[np.ndarray, frozenset[int]]:
        """Return the ids of the received cohort, and of those in it that are told to start afresh."""
        if header.count == clients and not header.flags & MARKED_IDS:
            return np.arange(clients), frozenset()
        ids = self._many_ids.numpy().view(np.uint32) if header.flags & MANY_IDS else self._ids
        ids = ids[: header.count]
        cohort = (ids & ~_MARK).astype(np.int64)
        return cohort, frozenset(cohort[ids >= _MARK].tolist())


class Stage(IntEnum):
    """How far a worker is with an order to save."""

    WRITING = 0
    SAVED = 1
    FAILED = 2


def read_stage(message: Tensor, round_: int) -> Stage:
    """Read the answer to an order to save a round.

    Raises:
        WireError: if the message is something else.
    """
    header = Header.read(message)
    if header.kind is not Kind.SAVED or header.round != round_ or header.count > max(Stage):
        raise WireError(f"something other than an answer about the checkpoint of round {round_}")
    return Stage(header.count)


def check_reply(message: Tensor, total: int, round_: int, client: int, length: int) -> int:
    """Check a received reply, whose payload has the checksum ``total`` (0: it has none), against what was asked for; return its flags.

    Raises:
        WireError: with the reason.
    """
    header = Header.read(message)
    if header.kind is not Kind.REPLY:
        raise WireError(f"a {header.kind.name.lower()} message instead of a reply")
    if header.round != round_:
        raise WireError(f"reply to round {header.round}")
    if header.count != client:
        raise WireError(f"reply of client {header.count}")
    if header.length != length:
        raise WireError(f"wrong length: {header.length} bytes instead of {length}")
    if header.checksum != total:
        raise WireError("wrong checksum")
    return header.flags
