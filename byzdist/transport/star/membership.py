"""Who can be asked: what the server knows of workers and clients, their offences and their lateness. It uses no process and no clock."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from byzdist.transport.base import IN_QUARANTINE, Request, Shape
from byzdist.transport.star.lateness import Allowance
from byzdist.transport.star.records import Report, ReportKind


@dataclass(frozen=True)
class Terms:
    """On what terms workers take part.

    Attributes:
        deadline, join_timeout: the longest waits for replies and for workers, in seconds.
        min_replies: how many clients must be reachable.
        offences: how many offences lead to quarantine.
        late_share: the share of the run's time for which the server may wait in vain for one worker.
        keeps_late: whether replies that come after their round are kept for the next one.
    """

    deadline: float
    join_timeout: float
    min_replies: int
    offences: int
    late_share: float
    keeps_late: bool = False


@dataclass
class Conduct:
    """What a client, or a worker, has done wrong."""

    offences: int = 0
    quarantine: str = ""  # its last offence, once it is in quarantine

    def offend(self, reason: str, limit: int) -> bool:
        """Count an offence; return whether it is the one that leads to quarantine, the ``limit``-th."""
        self.offences += 1
        if self.quarantine or self.offences < limit:
            return False
        self.quarantine = reason
        return True


@dataclass
class Worker:
    """What the server knows of one worker."""

    allowance: Allowance
    generation: int = 0
    state: str = "has not joined yet"  # "" while the link is open
    round: int = -1  # the round of the request that the worker still has to answer
    request: Request | None = None  # the same request
    pending: set[int] = field(default_factory=set)  # the clients that it still has to answer for
    rows: dict[int, int] = field(default_factory=dict)  # by client: the row where its gateway may still write a reply
    conduct: Conduct = field(default_factory=Conduct)

    @property
    def is_free(self) -> bool:
        """Whether there is a link and the worker owes no reply."""
        return not self.state and not self.pending

    @property
    def is_quarantined(self) -> bool:
        """Whether the worker is excluded for good because of its offences."""
        return self.state.startswith(IN_QUARANTINE)

    def release_rows(self, report: Report) -> None:
        """Note which rows the gateway no longer writes to."""
        if report.what in (ReportKind.REPLY, ReportKind.OFFENCE):
            self.rows.pop(report.client, None)
        elif report.what in (ReportKind.IDLE, ReportKind.ENDED):
            self.rows = {}


class Membership:
    """The workers of a star and the clients that they host.

    Args:
        now: the time, in seconds.

    Attributes:
        conducts: by client that has offended.
        trusted: by client, whether it is not in quarantine.
        resting: the ranks that were late too often and are not asked for a while.
    """

    def __init__(self, shape: Shape, terms: Terms, now: float) -> None:
        self._shape, self.terms = shape, terms
        ranks = range(1, shape.workers + 1)
        self.workers = {rank: Worker(Allowance(terms.deadline, terms.late_share, now)) for rank in ranks}
        self._hosts = np.arange(shape.clients) % shape.workers  # by client, counted from 0
        self.conducts: defaultdict[int, Conduct] = defaultdict(Conduct)
        self.trusted = np.ones(shape.clients, dtype=bool)
        self._free: tuple[tuple[bool, ...], np.ndarray] = (), np.arange(0)  # by worker, and their clients
        self.resting = set[int]()

    def free_clients(self) -> np.ndarray:
        """Return the clients out of quarantine whose worker is linked, owes no reply and does not rest, ascending."""
        free = tuple(worker.is_free and rank not in self.resting for rank, worker in self.workers.items())
        if free != self._free[0]:  # else keep the result, because making it takes longer with more clients
            self._free = free, np.flatnonzero(np.array(free)[self._hosts] & self.trusted)
        return self._free[1]

    def count_acceptable(self) -> int:
        """Return how many clients are not in quarantine and whose worker is not either."""
        acceptable = np.array([not worker.is_quarantined for worker in self.workers.values()])
        return int(np.count_nonzero(acceptable[self._hosts] & self.trusted))

    def why_too_few(self, reachable: int) -> str:
        """Return why so few clients are reachable, in words."""
        n, min_replies, acceptable = self._shape.clients, self.terms.min_replies, self.count_acceptable()
        if acceptable < min_replies:
            who = f"only {acceptable} of {n} clients are not" if acceptable else f"all {n} clients are"
            why = f"(transport.offences), and transport.min_replies is {min_replies}"
            conducts = [*self.conducts.values(), *(worker.conduct for worker in self.workers.values())]
            reasons = ", ".join(sorted({conduct.quarantine for conduct in conducts} - {""}))
            return f"{who} in quarantine {why}; the reasons: {reasons}"
        states = {rank: worker.state or "busy" for rank, worker in self.workers.items() if not worker.is_free}
        return (
            f"only {reachable} of {n} clients could be reached for {self.terms.join_timeout:g} s "
            f"(transport.join_timeout), and transport.min_replies is {min_replies}; by worker: {states}"
        )

    def offend(self, client: int, reason: str) -> bool:
        """Count an offence of a client; return whether it leads to quarantine."""
        if not self.conducts[client].offend(reason, self.terms.offences):
            return False
        self.isolate(client)
        return True

    def isolate(self, client: int) -> None:
        """Stop trusting a client."""
        self.trusted[client] = False
        self._free = (), np.arange(0)

    def hosts_nobody(self, rank: int) -> bool:
        """Return whether all clients of a worker are in quarantine."""
        return not self.trusted[rank - 1 :: self._shape.workers].any()

    def charge_the_late(self, round_: int, waited: float, now: float) -> list[str]:
        """Charge late workers for the ``waited`` seconds in which the round waited for them alone; rest those that used up their allowance.

        At most half of the workers rest at a time: if more are late, the deadline is wrong. Return the events to report.
        """
        told = []
        for rank, worker in self.workers.items():
            if not worker.pending or worker.round != round_:
                continue
            worker.allowance.spend(waited, now)
            seconds = worker.allowance.seconds_to_go(now)
            if seconds and 2 * len({*self.resting, rank}) <= len(self.workers):
                self.resting.add(rank)
                told.append(
                    f"worker {rank} is late too often and is not asked for {seconds:.1f} s (transport.late_share)"
                )
        return told

    def end_rests(self, now: float) -> None:
        """Let workers take part again if they have rested long enough, or if the run needs them."""
        for rank in list(self.resting):
            if not self.workers[rank].allowance.seconds_to_go(now):
                self.resting.remove(rank)
        if self.resting and len(self.free_clients()) < self.terms.min_replies:
            self.resting.clear()

    def offences(self) -> dict[str, Any]:
        """Return who has offended, as JSON."""
        workers = {rank: worker.conduct for rank, worker in self.workers.items()}
        return {
            "workers": [[rank, it.offences, it.quarantine] for rank, it in workers.items() if it.offences],
            "clients": [[client, it.offences, it.quarantine] for client, it in self.conducts.items()],
        }

    def restore(self, offences: Mapping[str, Any]) -> tuple[dict[int, str], dict[int, str]]:
        """Restore what `offences` returned, or a part of it; return which clients and workers are in quarantine, and why."""
        for client, count, reason in offences.get("clients", []):
            self.conducts[client] = Conduct(count, reason)
        for rank, count, reason in offences.get("workers", []):
            self.workers[rank].conduct = Conduct(count, reason)
        clients = {client: reason for client, _, reason in offences.get("clients", []) if reason}
        return clients, {rank: reason for rank, _, reason in offences.get("workers", []) if reason}
