"""The two ends of a transport, and what passes between them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from byzdist.rounds import Replies, Round
from byzdist.transport.wire import RequestFrame, Stage

_Ids = TypeVar("_Ids", int, np.ndarray)
IN_QUARANTINE = "quarantined: "  # begins the reason why such a client is missing


@dataclass(frozen=True)
class Shape:
    """The sizes that both ends must agree on.

    Attributes:
        seed: the run's.
        clients: n; client i lives on rank 1 + i mod workers.
        sampled: the size of a sampled cohort.
        max_cohort: the largest cohort of any round.
        max_payload: bytes of the longest payload of a reply.
        trailer: how many of these bytes follow the client's message.
        device: where messages lie.
        pinned: whether a GPU copies messages from and to the CPU's memory. That memory is then locked, so that copies are direct.
    """

    seed: int
    clients: int
    workers: int
    dimension: int
    sampled: int
    max_cohort: int
    max_payload: int
    dtype: torch.dtype
    device: torch.device
    pinned: bool = False
    trailer: int = 0

    def frame(self) -> RequestFrame:
        """Return a fresh request frame of this shape."""
        return RequestFrame(self.dimension, self.sampled, self.clients, self.dtype, self.device, pinned=self.pinned)

    def rank(self, client: _Ids) -> _Ids:
        """Return the rank that hosts a client, or those of an array of clients."""
        return 1 + client % self.workers

    def hosted(self, cohort: np.ndarray, rank: int) -> list[int]:
        """Return which clients of a cohort a rank hosts."""
        mine: list[int] = cohort[self.rank(cohort) == rank].tolist()
        return mine


@dataclass(frozen=True)
class Request:
    """What the server asks of a cohort; the models are in the transport's frame.

    Attributes:
        length: bytes of each reply's payload.
        needs_previous: whether clients need x^{k-1}, too.
        afresh: the clients that are told to start afresh, see `Received`.
    """

    round: Round
    length: int
    needs_previous: bool
    afresh: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Save:
    """The order to save what clients remember after a round; workers may delete files of rounds before ``oldest``."""

    round: int
    oldest: int


@dataclass(frozen=True)
class Resume:
    """The order to continue after a round: clients restore what they remembered then."""

    round: int


class ServerEnd(ABC):
    """The parameter server's end of a transport.

    The server calls `open` once, for each round `available`, `send` and `collect`, and `stop` at the end. It makes all calls
    from one thread, except `stop_waiting`.

    Attributes:
        frame: holds x^k (``frame.current``) and x^{k-1} (``frame.previous``), d values each; the server updates them in place,
            between `collect` and the next `send`.
        events: what has happened to the workers since the server last emptied the list, such as "worker 3 joined"; it becomes the
            ``news`` of a round's metrics.
    """

    frame: RequestFrame
    events: list[str]

    def open(self) -> None:
        """Wait for the workers.

        Raises:
            RunError: if too few come in time.
        """
        return None

    def absent(self) -> list[int]:
        """Return the ranks of the workers that are not linked, ascending."""
        return []

    @abstractmethod
    def available(self) -> np.ndarray:
        """Return the ids (int64) of the clients that a request can reach now, ascending; wait while they are too few.

        Raises:
            RunError: if they are too few for too long, unless `stop_waiting` was called.
        """

    @abstractmethod
    def send(self, request: Request) -> None:
        """Send a request to its cohort, without waiting for replies.

        Raises:
            RunError: if a worker is gone that the transport cannot do without.
        """

    @abstractmethod
    def collect(self, deadline: float) -> Replies:
        """Return the replies to the last request.

        Args:
            deadline: in seconds after `send`; a client that has not replied by then is missing.

        Raises:
            RunError: as `send` does.
        """

    @abstractmethod
    def blame(self, client: int, reason: str) -> None:
        """Count a reply of the last round as an offence, because it was well-formed but useless: not finite, for example.

        Args:
            client: who sent it.
            reason: why it is useless, in words.
        """

    @abstractmethod
    def quarantined(self) -> set[int]:
        """Return the clients that are no longer asked because of what they have sent."""

    @abstractmethod
    def offences(self) -> dict[int, int]:
        """Return how many offences each client has, if any."""

    def snapshot(self, round_: int) -> dict[str, Any]:
        """Return the workers' state after a round as a checkpoint needs it, as JSON: which of them hold x^k, for example."""
        return {}

    def resume(self, round_: int, snapshot: dict[str, Any], everyone: bool) -> None:
        """Bring the workers to where they were after a round, without counting the bytes.

        Args:
            round_: the round; its model is in ``frame.current``.
            snapshot: what `snapshot` returned then; only its key "clients" if ranks host other clients now.
            everyone: whether workers must be told to restore what their clients remembered.
        """
        return None

    @abstractmethod
    def save(self, order: Save) -> None:
        """Pass an order to save on to all workers that are linked. Called again for a round, ask how far they are.

        Raises:
            RunError: as `send` does.
        """

    @abstractmethod
    def unsaved(self) -> list[int]:
        """Return the ranks that are still carrying out the last order to save."""

    @abstractmethod
    def end_save(self) -> list[int]:
        """Stop waiting for the last order to save; return the ranks whose part is missing."""

    def stop_waiting(self) -> None:
        """From now on wait for no worker that is not linked. A signal handler may call this."""
        return None

    @abstractmethod
    def stop(self) -> None:
        """Tell every worker that the run is over, and close the links."""


Forge = Callable[[Tensor], Tensor]


class Reply(NamedTuple):
    """A client's answer in a round, as its worker hands it over.

    Attributes:
        payload: the client's encoded message (uint8), which fills the buffer that `WorkerEnd.room` returned.
        afresh: whether the client remembered nothing before this round.
        forge: of an attack that breaks messages: maps the finished message with its header (uint8) to what is sent instead.
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
        x: x^k, d values.
        previous: x^{k-1}, d values, if the round needs it.
        has_model: whether x has come with the request; otherwise it comes by a broadcast.
        afresh: the clients that start afresh, because the server has not taken their last reply.
    """

    round: Round
    mine: list[int]
    x: Tensor
    previous: Tensor | None
    has_model: bool = True
    afresh: frozenset[int] = frozenset()


class WorkerEnd(ABC):
    """A worker's end of a transport.

    The worker calls `open` once and `receive` again and again; it answers a `Received` by calling `room` and `reply`
    for each client that it hosts, in their order, and a `Save` by calling `answer`. A `Resume` has no answer.
    """

    def open(self) -> bool:
        """Join the run; return False if it is over.

        Raises:
            RunError: if the server cannot be found or refuses this worker.
        """
        return True

    @abstractmethod
    def receive(self) -> Received | Save | Resume | None:
        """Wait for the next request or order; None when the run is over.

        Raises:
            RunError: if the server is gone.
        """

    @abstractmethod
    def room(self, length: int) -> Tensor:
        """Return the buffer for the payload of the next reply: ``length`` bytes (uint8) on the links' device."""

    @abstractmethod
    def reply(self, reply: Reply) -> None:
        """Send a client's reply, whose payload lies in what `room` returned last.

        Raises:
            RunError: if the server is gone and this transport cannot join it again.
        """

    @abstractmethod
    def answer(self, order: Save, stage: Stage) -> None:
        """Tell the server how far this worker is with an order to save."""

    def stop_waiting(self) -> None:
        """From now on end this worker's run when its link breaks. A signal handler may call this."""
        return None

    def leave(self) -> None:
        """Note that this worker's part in the run is over: its process may go on to another run."""
        return None
