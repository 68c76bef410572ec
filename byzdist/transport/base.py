"""The two ends of a transport, and what passes between them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from byzdist.transport.wire import HEADER_BYTES, RequestFrame, checksum


@dataclass(frozen=True)
class Shape:
    """The sizes that both ends must agree on.

    Attributes:
        clients: n; client i lives on rank 1 + i mod workers.
        most_cohort: the largest cohort of any round.
        most_ids: the largest cohort that is not simply everyone.
        longest: bytes of the longest payload of a reply.
    """

    clients: int
    workers: int
    dimension: int
    most_cohort: int
    most_ids: int
    longest: int
    dtype: torch.dtype
    device: torch.device

    def frame(self) -> RequestFrame:
        """Return a fresh request frame of this shape."""
        return RequestFrame(self.dimension, self.most_ids, self.dtype, self.device)

    def rank(self, client: int) -> int:
        """Return the rank that hosts a client."""
        return 1 + client % self.workers


@dataclass(frozen=True)
class Request:
    """What the server asks of a cohort: the model is in the transport's frame, each reply is ``length`` bytes of payload."""

    round: int
    full: bool
    cohort: np.ndarray
    length: int
    needs_previous: bool


@dataclass(frozen=True)
class Missing:
    """Why a client's reply is not there."""

    reason: str


class ServerEnd(ABC):
    """The parameter server's end.

    Attributes:
        frame: holds x^k (``frame.current``) and x^{k-1} (``frame.previous``); the server updates them in place.
        bytes_down, bytes_up: what the round in progress has really sent and received.
    """

    frame: RequestFrame
    bytes_down: int
    bytes_up: int

    @abstractmethod
    def send(self, request: Request) -> None:
        """Send a request to its cohort, without waiting for replies."""

    @abstractmethod
    def collect(self, deadline: float) -> dict[int, Tensor | Missing]:
        """Return, by ascending client id, the payload (uint8) of each reply or why it is missing, ``deadline`` s after `send` at the latest.

        A payload's memory is the transport's and lasts until the next `send`.
        """

    @abstractmethod
    def stop(self) -> None:
        """Tell every worker that the run is over, and close the links."""


@dataclass(frozen=True)
class Received:
    """A request as a worker sees it; ``previous`` is x^{k-1} where the round needs it."""

    round: int
    full: bool
    cohort: np.ndarray
    x: Tensor
    previous: Tensor | None


class WorkerEnd(ABC):
    """A worker's end."""

    @abstractmethod
    def receive(self) -> Received | None:
        """Wait for the next request; None when the run is over."""

    @abstractmethod
    def reply(self, round_: int, client: int, length: int, fill: Callable[[Tensor], None]) -> None:
        """Send a client's reply: ``fill`` writes its payload (uint8, ``length`` bytes) into the outgoing buffer."""


class ReplyRow:
    """Room for one reply: header and payload in one buffer, or on a GPU the payload apart."""

    def __init__(self, longest: int, device: torch.device) -> None:
        apart = device.type == "cuda"
        self.message = torch.zeros(HEADER_BYTES + (0 if apart else longest), dtype=torch.uint8)
        self.payload = torch.zeros(longest, dtype=torch.uint8, device=device) if apart else self.message[HEADER_BYTES:]
        self._apart = apart

    def parts(self, length: int) -> list[Tensor]:
        """Return the tensors to send or receive, in order, for a payload of ``length`` bytes."""
        if self._apart:
            return [self.message, self.payload[:length]]
        return [self.message[: HEADER_BYTES + length]]

    def checksum(self, length: int) -> int:
        """Return the checksum of the payload; on a GPU it would cost a copy, and the data never crosses a hostile network."""
        return 0 if self._apart else checksum(self.payload[:length])
