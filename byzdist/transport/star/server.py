"""The star transport: for clients that hang, die, lie on the wire and come back.

The server talks to each worker over a link of its own through that worker's gateway (see gateway.py), and waits for all of them at
one pipe, with a deadline. The times nest: ``deadline`` bounds a round's wait for replies; a link that kept its gateway waiting for
``deadline + join_timeout`` is closed, and its worker may join again; without ``min_replies`` reachable clients for
``join_timeout`` seconds the run ends.

A malformed reply is an offence of its client, a broken link one of its worker; either may end in quarantine. A worker
that is late too often is not asked for a while (see lateness.py).
"""

import logging
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch.distributed import DistError

from byzdist.errors import ConfigError, RunError
from byzdist.host.descriptors import SPARE
from byzdist.rounds import LateReply, Payloads, Replies
from byzdist.transport.base import IN_QUARANTINE, Request, Save, ServerEnd, Shape
from byzdist.transport.star.exchange import Exchange
from byzdist.transport.star.keeper import Gateways
from byzdist.transport.star.link import END, SILENT, leave_note, welcome
from byzdist.transport.star.membership import Membership, Terms, Worker
from byzdist.transport.star.orders import Orders
from byzdist.transport.star.records import Command, Report, ReportKind
from byzdist.transport.star.shared import OVER, QUARANTINED, Shared
from byzdist.transport.store import Connect
from byzdist.transport.wire import HAS_MODEL, HAS_PREVIOUS, Kind

log = logging.getLogger(__name__)
_END_PATIENCE = 2.0  # seconds in which gateways may end by themselves
_STORE_PATIENCE = 2.0  # seconds for writing the notes at the end
_LOOK = 0.5  # seconds between two checks whether the server still waits
_FILES = 4, 68  # descriptors for each worker (pipes, connections to the store), and for everything else


def _make_room_for_files(workers: int) -> None:
    """Let this process, and its gateways, open as many files as the system allows, except for those that saving needs.

    Raises:
        ConfigError: if the system allows too few for the workers.
    """
    each, others = _FILES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != hard < each * workers + others + SPARE:
        raise ConfigError(
            f"--workers: a star of {workers} workers takes about {each * workers + others + SPARE} open files, and this "
            f"process may have {hard}; raise the limit (ulimit -Hn) or start fewer workers."
        )
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard - SPARE, hard))


class StarServer(ServerEnd):
    """The parameter server's end. Make it before the process starts any thread, because it forks.

    Args:
        keys: each worker's key, by rank.
        connect: opens a connection to the job's store.
        facts: what each worker is told of the run when it joins.

    Attributes:
        attempt: distinguishes this start of the run from earlier ones, 32 hexadecimal digits.
        gateways: the processes that hold the links to the workers.
        members: who has joined, and in which state each worker is.
    """

    def __init__(self, shape: Shape, terms: Terms, keys: dict[int, bytes], connect: Connect, facts: str) -> None:
        self._shape, self._keys, self._connect = shape, keys, connect
        self.attempt = os.urandom(16).hex()
        self._shared = Shared(shape)
        self.frame = self._shared.frame
        self.events = []
        _make_room_for_files(shape.workers)
        patience = terms.deadline + terms.join_timeout
        self.gateways = Gateways(shape, self._shared, keys, welcome(self.attempt, facts), connect, patience)
        self.members = Membership(shape, terms, time.monotonic())
        self.exchange, self.orders = Exchange(shape), Orders(self.members.workers)
        self.gateways.start()
        if shape.pinned and torch.cuda.is_available():
            self._shared.pin()
        self._waits_for_nobody = False
        self._late: dict[int, LateReply] = {}  # by client, until the next round ends

    def open(self) -> None:
        """Wait until every worker has joined, or until ``join_timeout`` is over and at least ``min_replies`` clients can be reached.

        Raises:
            RunError: if fewer can.
        """
        self._wait(lambda: all(not worker.state or worker.is_quarantined for worker in self.members.workers.values()))
        self.available()

    def absent(self) -> list[int]:
        """See `ServerEnd.absent`; the list is empty once `stop_waiting` was called."""
        return [rank for rank, worker in self.members.workers.items() if worker.state and not self._waits_for_nobody]

    def stop_waiting(self) -> None:
        """See `ServerEnd.stop_waiting`."""
        self._waits_for_nobody = True

    def available(self) -> np.ndarray:
        """Return the clients out of quarantine whose worker is linked and owes no reply; see `ServerEnd.available`."""
        members, min_replies = self.members, self.members.terms.min_replies
        self.listen(0)
        self.gateways.wake_keeper()
        members.end_rests(time.monotonic())
        self._wait(lambda: len(members.free_clients()) >= min_replies or members.count_acceptable() < min_replies)
        clients = members.free_clients()
        if len(clients) < min_replies and not self._waits_for_nobody:
            raise RunError(members.why_too_few(len(clients)))
        return clients

    def _wait(self, is_enough: Callable[[], bool]) -> None:
        """Listen for at most ``join_timeout`` seconds, until ``is_enough`` or `stop_waiting` was called."""
        until = time.monotonic() + self.members.terms.join_timeout
        while not is_enough() and not self._waits_for_nobody and (left := until - time.monotonic()) > 0:
            self.gateways.wake_keeper()
            self.listen(min(left, _LOOK))

    def send(self, request: Request) -> None:
        """Tell the gateways of the cohort's workers to send; clients that cannot be reached are missing at once."""
        now = time.monotonic()
        self.listen(0)
        exchange, round_ = self.exchange, request.round
        ranks = exchange.begin(request, self.members, now)
        self._traffic = self._shared.traffic.sum(axis=0)
        self._shared.publish(round_.number, exchange.rows, request.afresh)
        kind = Kind.FULL if round_.full else Kind.SAMPLED
        flags = HAS_MODEL | HAS_PREVIOUS * request.needs_previous
        for rank in ranks:
            generation = self.members.workers[rank].generation
            command = Command(generation, kind, round_.number, request.length, len(exchange.rows), flags)
            self.gateways.give(rank, command)

    def collect(self, deadline: float) -> Replies:
        """Wait for the replies; see `ServerEnd.collect`. A worker that has not answered by then is busy until it does."""
        exchange = self.exchange
        until = exchange.sent_at + deadline
        while exchange.awaited and self.listen(until - time.monotonic()):
            pass
        self._shared.retire()
        down, up = self._shared.traffic.sum(axis=0) - self._traffic
        present, missing = exchange.end()
        if exchange.awaited:
            now = time.monotonic()
            for text in self.members.charge_the_late(exchange.request.round.number, now - exchange.heard_at, now):
                self._tell(text)
        payloads = Payloads(present, self._shared.rows.payloads(list(present.values()), exchange.request.length))
        late, self._late = self._late, {}
        return Replies(payloads, missing, exchange.afresh, int(down), int(up), late)

    def listen(self, seconds: float) -> bool:
        """Process the reports of gateways, waiting ``seconds`` at most for the first one; return whether there was any.

        Raises:
            RunError: if the gateways are gone.
        """
        reports = self.gateways.listen(seconds)
        for report in reports:
            self.hear(report)
        return bool(reports)

    def hear(self, report: Report) -> None:
        """Handle a gateway's report about its worker."""
        worker = self.members.workers[report.rank]
        row = worker.rows.get(report.client)
        if report.generation == worker.generation:
            worker.release_rows(report)
        if report.what is ReportKind.JOINED:
            self._welcome(report, worker)
        elif report.generation != worker.generation or worker.state:
            log.debug("%s", report)  # a late report of a link that was closed, or never opened
        elif report.what is ReportKind.REPLY:
            is_late = self._settle(worker, report.client, afresh=report.text != "")
            if is_late and row is not None and self.members.terms.keeps_late:
                self._keep(worker, report.client, row)
        elif report.what is ReportKind.OFFENCE:
            self._settle(worker, report.client, report.text)
            self.blame(report.client, report.text)
        elif report.what is ReportKind.IDLE:
            worker.pending.clear()
        elif report.what is ReportKind.ORDER_DONE:
            self.orders.answered(report.rank, report.client)
        else:
            self._lose(report, worker)

    def _welcome(self, report: Report, worker: Worker) -> None:
        self._settle_all(worker, "left: its worker has joined again")  # its previous link broke without a report
        worker.generation = report.generation
        if self._shared.dismissed[report.rank]:
            self.gateways.give(report.rank, Command.end(worker.generation))
            return
        worker.state = ""
        self._tell(f"worker {report.rank} joined")
        if (command := self.orders.greet(report.rank)) is not None:
            self.gateways.give(report.rank, command)

    def _settle(self, worker: Worker, client: int, missing: str | None = None, afresh: bool = False) -> bool:
        """Take a client's reply, or why there is none; return whether its round is over."""
        if text := self.exchange.settle(worker, client, time.monotonic(), missing, afresh):
            self._tell(text)
        return text != ""

    def _keep(self, worker: Worker, client: int, row: int) -> None:
        """Keep a late reply, which lies in a row, for the next round."""
        assert worker.request is not None
        payload = self._shared.rows.payloads([row], worker.request.length)[0].clone()
        self._late[client] = LateReply(worker.request.round, payload)

    def _settle_all(self, worker: Worker, reason: str) -> None:
        """Note why the replies that a worker owes will never come."""
        for client in list(worker.pending):
            self._settle(worker, client, reason)

    def _lose(self, report: Report, worker: Worker) -> None:
        """Note that a link is gone."""
        self._settle_all(worker, f"left: {report.text}")
        self.orders.forget(report.rank, "it did not answer" if report.text == SILENT else "")
        worker.state = f"left: {report.text}"
        self._warn(f"worker {report.rank} {worker.state}")
        if report.what is ReportKind.EXPELLED:
            self._blame_worker(report.rank, report.text)

    def _blame_worker(self, rank: int, reason: str) -> None:
        """Count an offence of a worker."""
        conduct = self.members.workers[rank].conduct
        if conduct.offend(reason, self.members.terms.offences):
            self._warn(f"worker {rank} is in quarantine after {conduct.offences} offences, the last: {reason}")
            self._dismiss(rank, reason)

    def blame(self, client: int, reason: str) -> None:
        """Count an offence of a client, which does not concern the other clients of its worker; see `ServerEnd.blame`."""
        if self.members.offend(client, reason):
            offences = self.members.conducts[client].offences
            self._warn(f"client {client} is in quarantine after {offences} offences, the last: {reason}")
            self._give_up_host_of(client, reason)

    def quarantined(self) -> set[int]:
        """See `ServerEnd.quarantined`."""
        return {client for client, conduct in self.members.conducts.items() if conduct.quarantine}

    def _give_up_host_of(self, client: int, reason: str) -> None:
        """Dismiss the worker of a client in quarantine once all its clients are in quarantine."""
        rank = self._shape.rank(client)
        if self.members.hosts_nobody(rank) and not self._shared.dismissed[rank]:
            self._warn(f"worker {rank} is in quarantine with all its clients")
            self._dismiss(rank, reason)

    def _dismiss(self, rank: int, reason: str) -> None:
        """Close a worker's link for good, and refuse it from now on."""
        worker = self.members.workers[rank]
        self._shared.dismiss(rank, QUARANTINED, f"it is in quarantine, the last reason: {reason}")
        self.gateways.give(rank, Command.end(worker.generation))
        self._settle_all(worker, IN_QUARANTINE + reason)
        self.orders.forget(rank)
        worker.state = IN_QUARANTINE + reason

    def offences(self) -> dict[int, int]:
        """Return how many offences each client has."""
        return {client: conduct.offences for client, conduct in self.members.conducts.items()}

    def snapshot(self, round_: int) -> dict[str, Any]:
        """Return who holds the round's model, and who has offended; see `ServerEnd.snapshot`."""
        workers = self.members.workers.items()
        holders = [rank for rank, worker in workers if worker.round == round_ and worker.is_free]
        return {"holders": holders, **self.members.offences()}

    def resume(self, round_: int, snapshot: dict[str, Any], everyone: bool) -> None:
        """Send the model once more to those who held it, and forget no offence; see `ServerEnd.resume`.

        A worker that joins later gets the order when it joins.
        """
        clients, workers = self.members.restore(snapshot)
        for client, reason in clients.items():
            self.members.isolate(client)
            self._give_up_host_of(client, reason)
        for rank, reason in workers.items():
            self._dismiss(rank, reason)
        self._give_all(self.orders.resume(round_, snapshot.get("holders", []), everyone))
        self._wait(lambda: not self.orders.is_anybody_busy())
        self.events.clear()  # the first round need not report that workers joined

    def save(self, order: Save) -> None:
        """Ask every worker with a link; the answers come while the server listens. See `ServerEnd.save`."""
        terms = self.members.terms
        self._give_all(self.orders.save(order, time.monotonic() + terms.deadline + terms.join_timeout))

    def _give_all(self, commands: dict[int, Command]) -> None:
        for rank, command in commands.items():
            self.gateways.give(rank, command)

    def unsaved(self) -> list[int]:
        """See `ServerEnd.unsaved`; the server waits for no worker longer than a link may wait."""
        self.listen(0)
        return self.orders.unsaved(time.monotonic())

    def end_save(self) -> list[int]:
        """See `ServerEnd.end_save`. A missing part is an offence, unless most parts are missing: then a shared disk may be full."""
        failures, missing = self.orders.end_save()
        for rank, reason in failures.items():
            self._warn(f"worker {rank} did not save what its clients remember: {reason}")
            if 2 * len(failures) <= len(self.members.workers):
                self._blame_worker(rank, f"did not save: {reason}")
        return missing

    def _tell(self, text: str, level: int = logging.INFO) -> None:
        log.log(level, text)
        self.events.append(text)

    def _warn(self, text: str) -> None:
        """Record an absence or a quarantine, as a warning in the log, so that people see it at once."""
        self._tell(text, logging.WARNING)

    def stop(self) -> None:
        """Tell every worker that the run is over; workers that are away find a note in the store when they come back."""
        for rank in self.members.workers:
            self._shared.dismiss(rank, OVER)
        self._leave_notes()
        self._give_all({rank: Command.end(worker.generation) for rank, worker in self.members.workers.items()})
        self.gateways.end(_END_PATIENCE if all(worker.is_free for worker in self.members.workers.values()) else 1.0)

    def _leave_notes(self) -> None:
        with suppress(DistError, RunError):  # a worker that finds no note gives up after its own patience
            store = self._connect(_STORE_PATIENCE)
            store.set_timeout(timedelta(seconds=_STORE_PATIENCE))
            for rank, key in self._keys.items():
                leave_note(store, rank, key, self.attempt, END)
