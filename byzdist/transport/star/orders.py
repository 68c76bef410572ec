"""The orders RESUME and SAVE, and the answers to them. It uses no process and no clock."""

from collections.abc import Collection
from dataclasses import dataclass

from byzdist.transport.base import Save
from byzdist.transport.star.membership import Worker
from byzdist.transport.star.records import Command
from byzdist.transport.wire import HAS_MODEL, Kind, Stage


@dataclass
class OrderProgress:
    """How far one worker is with its orders."""

    is_busy: bool = False  # with an order
    asked: int = -1  # the round of the last order to save that it was given
    is_awaited: bool = False  # the server waits for it to say that it has saved
    has_saved: bool = False  # it has carried out the last order to save
    failure: str = ""  # why it has not, if that is its own fault


class Orders:
    """What each worker was ordered, and what it has answered.

    Args:
        workers: by rank.

    Attributes:
        progress: by rank.
    """

    def __init__(self, workers: dict[int, Worker]) -> None:
        self._workers = workers
        self.progress = {rank: OrderProgress() for rank in workers}
        self._saving, self._save_until = -1, 0.0  # the round of the last order to save, and the time for it
        self._resumed = -1  # the round after which clients continue, with what they remembered then
        self._untold = set[int]()  # the ranks that have not been told so yet

    def resume(self, round_: int, holders: Collection[int], everyone: bool) -> dict[int, Command]:
        """Return the orders, by rank, that bring the workers to where they were after a round.

        Args:
            round_: the round.
            holders: the ranks that held its model then, and get it now.
            everyone: whether to tell the others as well, and also those that join later.
        """
        self._resumed, self._untold = round_, set(self._workers) if everyone else set()
        commands = {}
        for rank, worker in self._workers.items():
            if not worker.state and (everyone or rank in holders):
                worker.round, flags = (round_, HAS_MODEL) if rank in holders else (-1, 0)
                commands[rank] = self._order(rank, Kind.RESUME, round_, flags=flags)
        return commands

    def greet(self, rank: int) -> Command | None:
        """Return the order for a worker that has just joined, None if there is none."""
        self.forget(rank)
        return self._order(rank, Kind.RESUME, self._resumed) if rank in self._untold else None

    def save(self, order: Save, until: float) -> dict[int, Command]:
        """Return the orders to save, by rank; a second call for the same round asks how far the workers are.

        Args:
            order: the order.
            until: when the server stops waiting for the answers; only the value of the first call for a round counts.
        """
        if order.round != self._saving:
            self._saving, self._save_until = order.round, until
            for rank, progress in self.progress.items():
                progress.is_awaited, progress.has_saved, progress.failure = not self._workers[rank].state, False, ""
        commands = {}
        for rank, progress in self.progress.items():
            if progress.is_awaited and not progress.is_busy:
                progress.asked = order.round
                commands[rank] = self._order(rank, Kind.SAVE, order.round, length=order.oldest)
        return commands

    def _order(self, rank: int, kind: Kind, round_: int, length: int = 0, flags: int = 0) -> Command:
        self.progress[rank].is_busy = True
        return Command(self._workers[rank].generation, kind, round_, length, flags=flags)

    def answered(self, rank: int, stage: int) -> None:
        """Note a worker's answer to its order; ``stage`` says how far it is with an order to save."""
        progress = self.progress[rank]
        progress.is_busy = False
        self._untold.discard(rank)  # every link begins with the order to resume
        if progress.asked == self._saving and progress.is_awaited and stage != Stage.WRITING:
            progress.is_awaited, progress.has_saved = False, stage == Stage.SAVED
            progress.failure = "" if progress.has_saved else "saving failed, see its log"

    def forget(self, rank: int, failure: str = "") -> None:
        """Stop waiting for a worker; ``failure``, if any, is why it has not saved when it was asked to."""
        progress = self.progress[rank]
        if progress.is_awaited and failure:
            progress.failure = failure
        progress.is_busy = progress.is_awaited = False

    def is_anybody_busy(self) -> bool:
        """Return whether any order is still being carried out."""
        return any(progress.is_busy for progress in self.progress.values())

    def unsaved(self, now: float) -> list[int]:
        """Return the ranks that have not yet said that they have saved; none once the time is over."""
        return [] if now > self._save_until else [rank for rank, it in self.progress.items() if it.is_awaited]

    def end_save(self) -> tuple[dict[int, str], list[int]]:
        """Stop waiting for the last order to save; return who failed and why, by rank, and all ranks whose part is missing."""
        for progress in self.progress.values():
            if progress.is_awaited:
                progress.is_awaited, progress.failure = False, "it takes too long"
        failures = {rank: it.failure for rank, it in self.progress.items() if it.failure}
        return failures, [rank for rank, it in self.progress.items() if not it.has_saved]
