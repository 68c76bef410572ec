"""The two ends of a transport, and what passes between them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from byzdist.rounds import Replies, Round
from byzdist.transport.wire import AFRESH, HEADER_BYTES, Header, Kind, RequestFrame, Stage, round_up

_Ids = TypeVar("_Ids", int, np.ndarray)


@dataclass(frozen=True)
class Shape:
    """The sizes that both ends must agree on.

    Attributes:
        seed: of the run.
        clients: n; client i lives on rank 1 + i mod workers.
        sampled: the size of a sampled cohort.
        most_cohort: the largest cohort of any round.
        most_ids: the largest cohort that is not simply everyone.
        longest: bytes of the longest payload of a reply.
        device: where messages lie.
        pinned: whether a GPU copies messages from and to the CPU's memory, which is then locked, so that it does so directly.
    """

    seed: int
    clients: int
    workers: int
    dimension: int
    sampled: int
    most_cohort: int
    most_ids: int
    longest: int
    dtype: torch.dtype
    device: torch.device
    pinned: bool = False

    def frame(self) -> RequestFrame:
        """Return a fresh request frame of this shape."""
        return RequestFrame(self.dimension, self.sampled, self.most_ids, self.dtype, self.device, pinned=self.pinned)

    def rank(self, client: _Ids) -> _Ids:
        """Return the rank that hosts a client, or those of an array of clients."""
        return 1 + client % self.workers

    def hosted(self, cohort: np.ndarray, rank: int) -> list[int]:
        """Return which clients of a cohort a rank hosts."""
        mine: list[int] = cohort[self.rank(cohort) == rank].tolist()
        return mine


@dataclass(frozen=True)
class Request:
    """What the server asks of a cohort: the model is in the transport's frame, each reply is ``length`` bytes of payload."""

    round: Round
    length: int
    needs_previous: bool


@dataclass(frozen=True)
class Missing:
    """Why a client's reply is not there."""

    reason: str


def as_replies(found: Mapping[int, Tensor | Missing], afresh: Set[int], bytes_down: int, bytes_up: int) -> Replies:
    """Return the replies of a round, found by ascending client id."""
    payloads = {client: reply for client, reply in found.items() if isinstance(reply, Tensor)}
    missing = {client: reply.reason for client, reply in found.items() if isinstance(reply, Missing)}
    return Replies(payloads, missing, afresh, bytes_down, bytes_up)


@dataclass(frozen=True)
class Save:
    """The order to save what clients remember as of a round; files of rounds before ``oldest`` are not needed any more."""

    round: int
    oldest: int


@dataclass(frozen=True)
class Resume:
    """The word that a run goes on after a round: clients are to remember what they did then."""

    round: int


class ServerEnd(ABC):
    """The parameter server's end.

    Attributes:
        frame: holds x^k (``frame.current``) and x^{k-1} (``frame.previous``); the server updates them in place, between `collect`
            and the next `send`.
        news: what has happened to the workers since the list was last emptied, such as "worker 3 joined".
    """

    frame: RequestFrame
    news: list[str]

    def open(self) -> None:
        """Wait for the workers.

        Raises:
            RunError: if too few come.
        """
        return None

    def absent(self) -> list[int]:
        """Return the worker ranks that are not there, ascending."""
        return []

    @abstractmethod
    def available(self) -> np.ndarray:
        """Return the ids of the clients that a request can reach now, ascending; wait where they are too few to go on.

        Raises:
            RunError: if they stay too few, unless the server was `stop_waiting`.
        """

    @abstractmethod
    def send(self, request: Request) -> None:
        """Send a request to its cohort, without waiting for replies."""

    @abstractmethod
    def collect(self, deadline: float) -> Replies:
        """Return what came back, ``deadline`` seconds after `send` at the latest."""

    def blame(self, client: int, reason: str) -> None:
        """Take note that a client's reply, though well-formed, was no reply, such as one that is not finite."""
        return None

    def quarantined(self) -> set[int]:
        """Return the clients that are not asked any more for what they themselves have sent."""
        return set()

    def position(self, round_: int) -> dict[str, Any]:
        """Return, as JSON, what of the workers' state after a round belongs to a checkpoint, such as who holds x^k."""
        return {}

    def resume(self, round_: int, position: dict[str, Any], everyone: bool) -> None:
        """Bring the workers to where they were after a round, outside of the counted bytes.

        Args:
            round_: the round; its model is in ``frame.current``.
            position: as `position` returned it then; where ranks host other clients now, only what its key "clients" holds.
            everyone: whether workers have to be told to take up what their clients remembered.
        """
        return None

    @abstractmethod
    def save(self, order: Save) -> None:
        """Pass an order to save on to all workers within reach; for the same round again it asks how far they are."""

    @abstractmethod
    def unsaved(self) -> list[int]:
        """Return the ranks that have still to carry out the last order, and can be hoped to."""

    @abstractmethod
    def end_save(self) -> list[int]:
        """Wait for the last order no longer; return the ranks whose part is missing."""

    def stop_waiting(self) -> None:
        """From now on wait for nobody: whoever is within reach is enough; safe to call from a signal handler."""
        return None

    @abstractmethod
    def stop(self) -> None:
        """Tell every worker that the run is over, and close the links."""


Forge = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reply:
    """A client's answer in a round, as its worker hands it over.

    Attributes:
        payload: the client's encoded message (uint8), which fills the room that `WorkerEnd.room` gave for it.
        afresh: whether the client had remembered nothing.
        forge: a fault's: it maps the finished message, header and all (uint8), to what is really sent.
    """

    round: Round
    client: int
    payload: Tensor
    afresh: bool = False
    forge: Forge | None = None


@dataclass(frozen=True)
class Received:
    """A request as a worker sees it.

    Attributes:
        mine: the clients of the cohort that this worker hosts, ascending.
        x: x^k, of d values.
        previous: x^{k-1}, likewise, where the round needs it.
        has_model: whether x has come with the request; it comes by a broadcast otherwise.
    """

    round: Round
    mine: list[int]
    x: Tensor
    previous: Tensor | None
    has_model: bool = True


class WorkerEnd(ABC):
    """A worker's end."""

    def open(self) -> bool:
        """Join the run; return False if it is over.

        Raises:
            RunError: if the server cannot be found or will not have this worker.
        """
        return True

    @abstractmethod
    def receive(self) -> Received | Save | Resume | None:
        """Wait for the next request or order; None when the run is over."""

    @abstractmethod
    def room(self, length: int) -> Tensor:
        """Return where to write the payload of the next reply: ``length`` bytes (uint8) on the links' device."""

    @abstractmethod
    def reply(self, reply: Reply) -> None:
        """Send a client's reply, whose payload lies in what `room` returned last."""

    @abstractmethod
    def answer(self, order: Save, stage: Stage) -> None:
        """Tell the server how far an order is."""

    def stop_waiting(self) -> None:
        """From now on a broken link is the end of this worker's run; safe to call from a signal handler."""
        return None


class ReplyRow:
    """Room for one reply: header and payload in one buffer, or on a GPU the payload apart."""

    def __init__(self, message: Tensor, payload: Tensor, apart: bool) -> None:
        self.message, self.payload, self._apart = message, payload, apart

    def finish(self, reply: Reply, checksum: int = 0) -> list[Tensor]:
        """Write the header of a reply whose payload lies here; return the tensors to send, in order."""
        length = reply.payload.nbytes
        Header(Kind.REPLY, reply.round.number, reply.client, AFRESH * reply.afresh, length, checksum).write(
            self.message
        )
        return self.parts(length)

    def parts(self, length: int) -> list[Tensor]:
        """Return the tensors to send or receive, in order, for a payload of ``length`` bytes."""
        if self._apart:
            return [self.message, self.payload[:length]]
        return [self.message[: HEADER_BYTES + length]]


def reply_rows(count: int, longest: int, device: torch.device, pinned: bool = False) -> list[ReplyRow]:
    """Return rows at equal distances in memory, so that the payloads of a round form a matrix without a copy."""
    stride = round_up(longest, HEADER_BYTES)
    if device.type == "cuda":
        messages = torch.zeros(count, HEADER_BYTES, dtype=torch.uint8)
        payloads = torch.zeros(count, stride, dtype=torch.uint8, device=device)
        return [ReplyRow(message, payload, True) for message, payload in zip(messages, payloads, strict=True)]
    rows = torch.zeros(count, HEADER_BYTES + stride, dtype=torch.uint8, pin_memory=pinned)
    return [ReplyRow(row, row[HEADER_BYTES:], False) for row in rows]


def as_matrix(payloads: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return equally long payloads (uint8) as the rows of a matrix: a view where they lie at equal distances, else a copy."""
    starts = [payload.data_ptr() for payload in payloads]
    stride = starts[1] - starts[0] if len(starts) > 1 else 0
    in_one_piece = len({start - payload.storage_offset() for start, payload in zip(starts, payloads, strict=True)}) == 1
    regular = in_one_piece and all(start == starts[0] + i * stride for i, start in enumerate(starts))
    if not regular or stride < 0 or stride % dtype.itemsize:
        return torch.stack([payload.view(dtype) for payload in payloads])
    first = payloads[0].view(dtype)
    return first.as_strided((len(payloads), len(first)), (stride // dtype.itemsize, 1))
