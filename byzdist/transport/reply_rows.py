"""Buffers for replies, in which the payloads of a round are the rows of one matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from byzdist.transport.base import Reply
from byzdist.transport.wire import AFRESH, HEADER_BYTES, Header, Kind, round_up


class ReplyRow:
    """The buffer of one reply: header and payload together, or on a GPU the payload apart."""

    def __init__(self, message: Tensor, payload: Tensor, apart: bool) -> None:
        self.message, self.payload, self._apart = message, payload, apart
        self._rooms: dict[int, Tensor] = {}  # views by length, kept because making one takes microseconds
        self._parts: dict[int, list[Tensor]] = {}

    def room(self, length: int) -> Tensor:
        """Return the place of a payload of ``length`` bytes, a view."""
        if (room := self._rooms.get(length)) is None:
            room = self._rooms[length] = self.payload[:length]
        return room

    def finish(self, reply: Reply, checksum: int = 0) -> list[Tensor]:
        """Write the header of a reply whose payload lies here; return the tensors to send, in order."""
        length, flags = reply.payload.nbytes, AFRESH * reply.afresh
        Header(Kind.REPLY, reply.round.number, reply.client, flags, length, checksum).write(self.message)
        return self.parts(length)

    def parts(self, length: int) -> list[Tensor]:
        """Return the tensors to send or receive, in order, for a payload of ``length`` bytes."""
        if (parts := self._parts.get(length)) is None:
            parts = [self.message, self.room(length)] if self._apart else [self.message[: HEADER_BYTES + length]]
            self._parts[length] = parts
        return parts


class ReplyRows:
    """Rows for many replies.

    Args:
        messages: a row of bytes for each reply: header and payload, or with ``payloads`` the header alone.
        payloads: a row of bytes for each payload, if those are apart.
    """

    def __init__(self, messages: Tensor, payloads: Tensor | None = None) -> None:
        self._messages, self._are_apart = messages, payloads is not None
        self._payloads = messages[:, HEADER_BYTES:] if payloads is None else payloads
        self._made: dict[int, ReplyRow] = {}  # the rows made so far: making two views takes microseconds

    @classmethod
    def make(cls, count: int, max_payload: int, device: torch.device, pinned: bool = False) -> "ReplyRows":
        """Return fresh rows for payloads of up to ``max_payload`` bytes on a device; ``pinned`` locks them in memory."""
        stride = round_up(max_payload, HEADER_BYTES)
        if device.type == "cpu":
            return cls(torch.zeros(count, HEADER_BYTES + stride, dtype=torch.uint8, pin_memory=pinned))
        messages = torch.zeros(count, HEADER_BYTES, dtype=torch.uint8)
        return cls(messages, torch.zeros(count, stride, dtype=torch.uint8, device=device))

    def __getitem__(self, number: int) -> ReplyRow:
        if (row := self._made.get(number)) is None:
            row = self._made[number] = ReplyRow(self._messages[number], self._payloads[number], self._are_apart)
        return row

    def first_payloads(self, count: int, length: int) -> Tensor:
        """Return the payloads of the first rows, ``length`` bytes each, as a view."""
        return self._payloads[:count, :length]

    def payloads(self, numbers: Sequence[int], length: int) -> Tensor:
        """Return the payloads of some rows, ``length`` bytes each, as a matrix: a view if the rows lie at equal distances."""
        step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
        if step > 0 and all(number == numbers[0] + i * step for i, number in enumerate(numbers)):
            rows = slice(numbers[0], numbers[-1] + 1, step) if numbers else slice(0)
            return self._payloads[rows, :length]
        return self._payloads[list(numbers), :length]
