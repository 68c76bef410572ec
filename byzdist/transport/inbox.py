"""Where a worker's requests and orders arrive, on any transport."""

from collections.abc import Callable

from torch import Tensor

from byzdist.rounds import Round
from byzdist.transport.base import Received, Resume, Save, Shape
from byzdist.transport.wire import HAS_MODEL, HAS_PREVIOUS, Header, Kind, RequestFrame


class Inbox:
    """Two request frames in turn: x^{k-1} stays in one while x^k arrives in the other.

    Args:
        rank: the worker's rank.
        frames: both frames, of the transport's shape.
        shares_headers: whether all workers get the same header, in which `HAS_PREVIOUS` is meant only for those that do not
            hold x^{k-1}.
    """

    def __init__(
        self, shape: Shape, rank: int, frames: tuple[RequestFrame, RequestFrame], shares_headers: bool
    ) -> None:
        self._shape, self._rank, self._shares_headers = shape, rank, shares_headers
        self._latest, self._next = frames
        self._model_round = -1  # the round whose model lies in the latest frame

    @property
    def buffer(self) -> Tensor:
        """The buffer for the first part of the next message; it holds x^{k-1} until round k has been answered."""
        return self._next.buffer

    def forget_model(self) -> None:
        """Note that the sender no longer knows which model lies here."""
        self._model_round = -1

    def take(self, receive: Callable[[Tensor], object]) -> Received | Save | Resume | None:
        """Return the message whose first part lies in the `buffer`; None if it says that the run is over.

        Args:
            receive: called with the buffer for each part that follows, and returns when that part has come.
        """
        frame = self._next
        header = Header.read(frame.buffer)
        if header.kind is Kind.SAVE:
            return Save(header.round, header.length)
        self._latest, self._next = frame, self._latest
        if header.kind is Kind.STOP:
            return None
        holds_previous, flags = self._model_round == header.round - 1, header.flags
        if holds_previous and self._shares_headers:
            flags &= ~HAS_PREVIOUS
        for part in frame.parts_apart(flags):
            receive(part)
        if header.kind is Kind.RESUME:
            self._model_round = header.round if flags & HAS_MODEL else -1
            return Resume(header.round)
        previous = None
        if flags & HAS_PREVIOUS:
            previous = frame.previous
        elif holds_previous:
            previous = self._next.current
        self._model_round = header.round
        cohort, afresh = frame.cohort(header, self._shape.clients)
        round_ = Round(header.round, self._shape.seed, header.kind is Kind.FULL, cohort)
        mine = self._shape.hosted(cohort, self._rank)
        return Received(round_, mine, frame.current, previous, flags & HAS_MODEL > 0, afresh)
