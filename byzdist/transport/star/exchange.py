"""A round's request and replies: who is asked, where each reply goes, what has come. It uses no process and no clock."""

from itertools import count

from byzdist.transport.base import IN_QUARANTINE, Request, Shape
from byzdist.transport.star.membership import Membership, Worker

_LATE = "no reply by the deadline"


class Exchange:
    """The exchange of the round in progress, or of the last one.

    Attributes:
        request: what was asked.
        rows: by trusted client, the row of shared memory where its reply goes; 0 for clients that could not be reached.
        afresh: the clients that said that they remembered nothing before this round.
        awaited: how many replies are still to come.
        sent_at, heard_at: when the requests left, and when a reply last came, in seconds.
    """

    request: Request

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.rows: dict[int, int] = {}
        self.awaited = 0
        self.sent_at = self.heard_at = 0.0
        self.afresh = set[int]()
        self._replied = set[int]()
        self._missing: dict[int, str] = {}  # why, by client
        self._is_open = False

    def begin(self, request: Request, members: Membership, now: float) -> list[int]:
        """Begin with a request; clients that cannot be reached are missing at once.

        Returns:
            The ranks that are to get the request; their workers owe replies from now on.
        """
        self.request, self.sent_at, self.heard_at, self._is_open = request, now, now, True
        self.afresh, self._replied, self._missing = set(), set(), {}
        cohort = request.round.cohort
        is_trusted = members.trusted[cohort]
        for client in cohort[~is_trusted].tolist():
            self._missing[client] = IN_QUARANTINE + members.conducts[client].quarantine
        taken = {row for worker in members.workers.values() for row in worker.rows.values()}
        free_rows = (row for row in count() if row not in taken)  # without gaps, unless a client is late
        self.rows = dict.fromkeys(cohort[is_trusted].tolist(), 0)
        hosted: dict[int, dict[int, int]] = {}
        for client in self.rows:
            rank = self._shape.rank(client)
            worker = members.workers[rank]
            if not worker.is_free:
                self._missing[client] = worker.state or f"busy since round {worker.round}"
            elif rank in members.resting:
                self._missing[client] = "late too often"
            else:
                self.rows[client] = hosted.setdefault(rank, {})[client] = next(free_rows)
        for rank, rows in hosted.items():
            worker = members.workers[rank]
            worker.round, worker.pending, worker.rows = request.round.number, set(rows), rows
            worker.request = request
        self.awaited = sum(map(len, hosted.values()))
        return list(hosted)

    def settle(self, worker: Worker, client: int, now: float, missing: str | None = None, afresh: bool = False) -> str:
        """Take a client's reply, or drop it if its round is over.

        Args:
            worker: the client's.
            client: who replies.
            now: the time, in seconds.
            missing: why there is no reply; None if the reply lies in the client's row.
            afresh: whether the client said that it remembered nothing before this round.

        Returns:
            The event to report, or "".
        """
        if client not in worker.pending:
            return ""
        worker.pending.remove(client)
        if not self._is_open or worker.round != self.request.round.number:
            return f"client {client} answered round {worker.round} too late"
        if missing is None:
            self._replied.add(client)
        else:
            self._missing[client] = missing
        if afresh:
            self.afresh.add(client)
        self.awaited -= 1
        self.heard_at = now
        return ""

    def end(self) -> tuple[dict[int, int], dict[int, str]]:
        """End the round: a client that has not answered by now is late.

        Returns:
            The rows of the replies that have come, and why the others are missing, by client, in the order of the cohort.
        """
        self._is_open = False
        cohort = self.request.round.cohort.tolist()
        present = {client: self.rows[client] for client in cohort if client in self._replied}
        return present, {client: self._missing.get(client, _LATE) for client in cohort if client not in self._replied}
