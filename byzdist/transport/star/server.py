"""The star transport: for clients that hang, die, lie on the wire and come back.

The server talks to each worker over a link of its own through that worker's gateway (see gateway.py), and waits for all of them at
one pipe, with a deadline. The times nest: ``deadline`` bounds a round's wait for replies; a link that kept its gateway waiting for
``deadline + join_timeout`` is closed, and its worker may join again; without ``min_replies`` reachable clients for
``join_timeout`` seconds the run ends.

What a reply is worth counts against its client, what breaks the link against its worker; either may end in quarantine. A worker
that is late again and again is not asked for a while (see lateness.py).
"""

import logging
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributed import DistError

from byzdist.errors import ConfigError, RunError
from byzdist.host.descriptors import SPARE
from byzdist.rounds import Replies
from byzdist.transport.base import Missing, Request, Save, ServerEnd, Shape, sorted_out
from byzdist.transport.star.gateway import Command, Event, EventKind, GatewaySetup, start_keeper
from byzdist.transport.star.link import END, SILENT, leave_note, welcome
from byzdist.transport.star.membership import IN_QUARANTINE, Membership, Terms, Worker
from byzdist.transport.star.shared import OVER, QUARANTINED, Shared
from byzdist.transport.store import Connect
from byzdist.transport.wire import HAS_MODEL, HAS_PREVIOUS, Kind, Stage

log = logging.getLogger(__name__)
_END_PATIENCE = 2.0
_STORE_PATIENCE = 2.0  # seconds for the notes at the end, which are not worth more
_LOOK = 0.5  # seconds after which a wait notices that the server waits no longer
_FILES = 4, 68  # descriptors for each worker (ends of pipes, connections to the store), and for all else


def _make_room_for_files(workers: int) -> None:
    """Let this process, and the gateways after it, open as many files as the system allows, but for those that saving takes.

    Raises:
        ConfigError: if that is too few for so many workers.
    """
    each, others = _FILES
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != most < each * workers + others + SPARE:
        raise ConfigError(
            f"--workers: a star of {workers} workers takes about {each * workers + others + SPARE} open files, and this "
            f"process may have {most}; raise the limit (ulimit -Hn) or start fewer workers."
        )
    if most != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most - SPARE, most))


class StarServer(ServerEnd):
    """The parameter server's end. Make it before the process starts any thread, for it forks.

    Args:
        keys: each worker's key, by rank.
        connect: opens a connection to the job's store.
        facts: what each worker is told of the run when it joins.
    """

    def __init__(self, shape: Shape, terms: Terms, keys: dict[int, bytes], connect: Connect, facts: str) -> None:
        self._shape, self._keys, self._connect = shape, keys, connect
        self._life = os.urandom(16).hex()
        self._shared = Shared(shape)
        self.frame = self._shared.frame
        self.news = []
        _make_room_for_files(shape.workers)
        commands = {rank: os.pipe() for rank in range(1, shape.workers + 1)}
        self._events, events = os.pipe()
        readers = {rank: ends[0] for rank, ends in commands.items()}
        patience = timedelta(seconds=terms.deadline + terms.join_timeout)
        theirs = replace(shape, pinned=False)  # a fork must not touch its parent's GPU
        setup = GatewaySetup(theirs, self._shared, keys, welcome(self._life, facts), readers, events, connect, patience)
        self._keeper, fork_gateways = start_keeper(setup)
        for end in (*readers.values(), events):
            os.close(end)
        writers = {rank: ends[1] for rank, ends in commands.items()}
        self.members = Membership(shape, terms, writers, time.monotonic())
        self._poll = select.poll()
        self._poll.register(self._events, select.POLLIN)
        fork_gateways()
        if shape.pinned:
            self._shared.pin()
        self._request: Request
        self._replies: dict[int, Tensor | Missing] = {}
        self._afresh = set[int]()
        self._rows: dict[int, int] = {}  # by client of the round: where its reply is
        self._awaited = 0
        self._collecting = False
        self._sent_at = self._heard_at = 0.0  # when the round's requests left, and when a reply last came
        self._saving, self._save_until = -1, 0.0  # the round of the last order to save, and the time for it
        self._resumed = -1  # the round after which clients are to go on with what they remembered then
        self._unresumed: set[int] = set()  # the ranks that have still to be told
        self._waits_for_nobody = False

    def open(self) -> None:
        """Wait until every worker has joined, or until ``join_timeout`` is over and at least ``min_replies`` clients are there.

        Raises:
            RunError: if they are fewer.
        """
        self._wait(lambda: all(not worker.state or worker.is_quarantined for worker in self.members.workers.values()))
        self.available()

    def absent(self) -> list[int]:
        """See `ServerEnd.absent`; nobody is missed once the server waits for nobody."""
        return [rank for rank, worker in self.members.workers.items() if worker.state and not self._waits_for_nobody]

    def stop_waiting(self) -> None:
        """See `ServerEnd.stop_waiting`."""
        self._waits_for_nobody = True

    def available(self) -> np.ndarray:
        """Return the clients out of quarantine whose worker is linked and owes no reply; see `ServerEnd.available`."""
        members, least = self.members, self.members.terms.min_replies
        self._listen(0)
        self._wake_keeper()
        members.end_rests(time.monotonic())
        self._wait(lambda: len(members.free_clients()) >= least or members.count_acceptable() < least)
        clients = members.free_clients()
        if len(clients) < least and not self._waits_for_nobody:
            raise RunError(members.why_too_few(len(clients)))
        return clients

    def _wait(self, done: Callable[[], bool]) -> None:
        """Listen for at most ``join_timeout`` seconds, until something is so or the server waits for nobody."""
        until = time.monotonic() + self.members.terms.join_timeout
        while not done() and not self._waits_for_nobody and (left := until - time.monotonic()) > 0:
            self._wake_keeper()
            self._listen(min(left, _LOOK))

    def _wake_keeper(self) -> None:
        """Let the keeper go on where somebody has stopped it: nobody else replaces gateways."""
        with suppress(ChildProcessError):  # it has ended
            if os.waitid(os.P_PID, self._keeper, os.WSTOPPED | os.WNOHANG):
                log.warning("the process that keeps the gateways was stopped; it is told to go on")
                os.kill(self._keeper, signal.SIGCONT)

    def send(self, request: Request) -> None:
        """Ring at the gateways of the cohort's workers; clients that cannot be reached are missing at once."""
        self._request = request
        self._sent_at = self._heard_at = time.monotonic()
        self._replies.clear()
        self._afresh = set()
        self._traffic = self._shared.traffic.sum(axis=0)
        self._listen(0)
        taken = {row for worker in self.members.workers.values() for row in worker.rows.values()}
        rows = (row for row in count() if row not in taken)  # without a gap, unless somebody is late
        hosted: dict[int, dict[int, int]] = {}
        round_, cohort = request.round.number, request.round.cohort
        is_trusted = self.members.trusted[cohort]
        for client in cohort[~is_trusted].tolist():
            self._replies[client] = Missing(IN_QUARANTINE + self.members.conducts[client].quarantine)
        self._rows = dict.fromkeys(cohort[is_trusted].tolist(), 0)
        for client in self._rows:
            rank = self._shape.rank(client)
            worker = self.members.workers[rank]
            if not worker.is_free:
                self._replies[client] = Missing(worker.state or f"busy since round {worker.round}")
            elif rank in self.members.resting:
                self._replies[client] = Missing("late too often")
            else:
                self._rows[client] = hosted.setdefault(rank, {})[client] = next(rows)
        self._shared.publish(round_, self._rows)
        self._awaited, self._collecting = 0, True
        for rank, mine in hosted.items():
            worker = self.members.workers[rank]
            worker.round, worker.pending, worker.rows = round_, set(mine), mine
            self._awaited += len(mine)
            kind = Kind.FULL if request.round.full else Kind.SAMPLED
            flags = HAS_MODEL | HAS_PREVIOUS * request.needs_previous
            command = Command(worker.generation, kind, round_, request.length, len(self._rows), flags)
            self._give(worker, command)

    def _give(self, worker: Worker, command: Command) -> None:
        with suppress(BrokenPipeError):  # no keeper any more, as `_listen` will find
            os.write(worker.commands, command.pack())

    def collect(self, deadline: float) -> Replies:
        """Wait for the replies; see `ServerEnd.collect`. Whoever has not answered by then is busy until it does."""
        until = self._sent_at + deadline
        while self._awaited and self._listen(until - time.monotonic()):
            pass
        self._collecting = False
        if self._awaited:
            now = time.monotonic()
            for text in self.members.charge_the_late(self._request.round.number, now - self._heard_at, now):
                self._tell(text)
        self._shared.retire()
        down, up = self._shared.traffic.sum(axis=0) - self._traffic
        late = Missing("no reply by the deadline")
        found = {client: self._replies.get(client, late) for client in self._request.round.cohort.tolist()}
        return sorted_out(found, self._afresh, int(down), int(up))

    def _listen(self, seconds: float) -> bool:
        """Take in what gateways have to say, waiting at most so long for the first word; return whether there was any.

        Raises:
            RunError: if the gateways are gone.
        """
        if not self._poll.poll(max(0.0, seconds) * 1000):
            return False
        records = os.read(self._events, 64 * Event.SIZE)
        if not records:
            if self._shared.dismissed[1:].all():  # then it has nobody to wait for
                return False
            raise RunError("the process that keeps the gateways was ended from outside.")
        for start in range(0, len(records), Event.SIZE):
            self._hear(Event.unpack(records[start : start + Event.SIZE]))
        return True

    def _hear(self, event: Event) -> None:
        worker = self.members.workers[event.rank]
        if event.generation == worker.generation:
            worker.release_rows(event)
        if event.what is EventKind.JOINED:
            self._welcome(event, worker)
        elif event.generation != worker.generation or worker.state:
            log.debug("%s", event)  # the last words of a link that was given up, or never was
        elif event.what is EventKind.REPLY:
            payload = self._shared.row(self._rows.get(event.client, 0)).payload
            self._settle(worker, event.client, payload, afresh=event.text != "")
        elif event.what is EventKind.OFFENCE:
            self._settle(worker, event.client, Missing(event.text))
            self.blame(event.client, event.text)
        elif event.what is EventKind.IDLE:
            worker.pending.clear()
        elif event.what is EventKind.DONE:
            worker.ordered = False
            self._unresumed.discard(event.rank)  # every link begins with that order
            if worker.asked == self._saving:
                self._note_stage(event, worker)
        else:
            self._lose(event, worker)

    def _note_stage(self, event: Event, worker: Worker) -> None:
        """Take in how far a worker is with the last order to save."""
        if worker.unsaved and event.client != Stage.WRITING:
            worker.unsaved, worker.saved = False, event.client == Stage.SAVED
            worker.failure = "" if worker.saved else "it failed to, see its log"

    def _welcome(self, event: Event, worker: Worker) -> None:
        for client in list(worker.pending):  # the link before this one broke without a word
            self._settle(worker, client, Missing("left: its worker has joined again"))
        worker.generation = event.generation
        if self._shared.dismissed[event.rank]:
            self._give(worker, Command.end(worker.generation))
            return
        worker.state = ""
        worker.ordered = worker.unsaved = False
        self._tell(f"worker {event.rank} joined")
        if event.rank in self._unresumed:
            self._order(worker, Command(worker.generation, Kind.RESUME, self._resumed))

    def _settle(self, worker: Worker, client: int, reply: Tensor | Missing, afresh: bool = False) -> None:
        """Take a client's reply, or drop it where its round is over."""
        if client not in worker.pending:
            return
        worker.pending.remove(client)
        if self._collecting and worker.round == self._request.round.number:
            self._replies[client] = reply if isinstance(reply, Missing) else reply[: self._request.length]
            if afresh:
                self._afresh.add(client)
            self._awaited -= 1
            self._heard_at = time.monotonic()
        else:
            self._tell(f"client {client} answered round {worker.round} too late")

    def _lose(self, event: Event, worker: Worker) -> None:
        """Note that a link is gone."""
        for client in list(worker.pending):
            self._settle(worker, client, Missing(f"left: {event.text}"))
        if worker.unsaved and event.text == SILENT:
            worker.failure = "it did not answer"
        worker.shut_out(f"left: {event.text}")
        self._warn(f"worker {event.rank} {worker.state}")
        if event.what is EventKind.EXPELLED:
            self._blame_worker(event.rank, event.text)

    def _blame_worker(self, rank: int, reason: str) -> None:
        """Count an offence of a worker's."""
        conduct = self.members.workers[rank].conduct
        if conduct.offend(reason, self.members.terms.offences):
            self._warn(f"worker {rank} is in quarantine after {conduct.offences} offences, the last: {reason}")
            self._dismiss(rank, reason)

    def blame(self, client: int, reason: str) -> None:
        """Count an offence of a client's, which takes nobody else on its worker with it; see `ServerEnd.blame`."""
        if self.members.offend(client, reason):
            offences = self.members.conducts[client].offences
            self._warn(f"client {client} is in quarantine after {offences} offences, the last: {reason}")
            self._give_up_host_of(client, reason)

    def quarantined(self) -> set[int]:
        """See `ServerEnd.quarantined`."""
        return {client for client, conduct in self.members.conducts.items() if conduct.quarantine}

    def _give_up_host_of(self, client: int, reason: str) -> None:
        """Have no more to do with the worker of a client in quarantine, once all its clients are."""
        rank = self._shape.rank(client)
        if self.members.hosts_nobody(rank) and not self._shared.dismissed[rank]:
            self._warn(f"worker {rank} is in quarantine with all its clients")
            self._dismiss(rank, reason)

    def _dismiss(self, rank: int, reason: str) -> None:
        """Have no more to do with a worker."""
        worker = self.members.workers[rank]
        self._shared.dismiss(rank, QUARANTINED, f"it is in quarantine, the last reason: {reason}")
        self._give(worker, Command.end(worker.generation))
        for client in list(worker.pending):
            self._settle(worker, client, Missing(IN_QUARANTINE + reason))
        worker.shut_out(IN_QUARANTINE + reason)

    def position(self, round_: int) -> dict[str, Any]:
        """Return who holds the round's model, and who has offended; see `ServerEnd.position`."""
        workers = self.members.workers.items()
        holders = [rank for rank, worker in workers if worker.round == round_ and worker.is_free]
        return {"holders": holders, **self.members.offences()}

    def resume(self, round_: int, position: dict[str, Any], everyone: bool) -> None:
        """Send the model once more to those who held it, and forget no offence; see `ServerEnd.resume`.

        A worker that joins later is told then what its clients are to remember.
        """
        clients, workers = self.members.take_up(position)
        for client, reason in clients.items():
            self.members.isolate(client)
            self._give_up_host_of(client, reason)
        for rank, reason in workers.items():
            self._dismiss(rank, reason)
        self._resumed, self._unresumed = round_, set(self.members.workers) if everyone else set()
        holders = position.get("holders", [])
        for rank, worker in self.members.workers.items():
            if not worker.state and (everyone or rank in holders):
                worker.round, flags = (round_, HAS_MODEL) if rank in holders else (-1, 0)
                self._order(worker, Command(worker.generation, Kind.RESUME, round_, flags=flags))
        self._wait(lambda: not any(worker.ordered for worker in self.members.workers.values()))
        self.news.clear()  # that workers joined is what a run begins with

    def save(self, order: Save) -> None:
        """Ask every worker with a link; the answers come while the server listens. See `ServerEnd.save`."""
        if order.round != self._saving:
            self._saving = order.round
            self._save_until = time.monotonic() + self.members.terms.deadline + self.members.terms.join_timeout
            for worker in self.members.workers.values():
                worker.unsaved, worker.saved, worker.failure = not worker.state, False, ""
        for worker in self.members.workers.values():
            if worker.unsaved and not worker.ordered:
                worker.asked = order.round
                self._order(worker, Command(worker.generation, Kind.SAVE, order.round, order.oldest))

    def _order(self, worker: Worker, command: Command) -> None:
        worker.ordered = True
        self._give(worker, command)

    def unsaved(self) -> list[int]:
        """See `ServerEnd.unsaved`; nobody is waited for longer than a link may wait."""
        self._listen(0)
        if time.monotonic() > self._save_until:
            return []
        return [rank for rank, worker in self.members.workers.items() if worker.unsaved]

    def end_save(self) -> list[int]:
        """See `ServerEnd.end_save`. A missing part is an offence, unless most workers' are: they share a full disk, say."""
        failures = {}
        for rank, worker in self.members.workers.items():
            if worker.unsaved:
                worker.unsaved, worker.failure = False, "it takes too long"
            if worker.failure:
                failures[rank] = worker.failure
        for rank, reason in failures.items():
            self._warn(f"worker {rank} did not save what its clients remember: {reason}")
            if 2 * len(failures) <= len(self.members.workers):
                self._blame_worker(rank, f"did not save: {reason}")
        return [rank for rank, worker in self.members.workers.items() if not worker.saved]

    def _tell(self, text: str, level: int = logging.INFO) -> None:
        log.log(level, text)
        self.news.append(text)

    def _warn(self, text: str) -> None:
        """Tell of somebody's absence or quarantine: whoever looks after the run sees it at once."""
        self._tell(text, logging.WARNING)

    def stop(self) -> None:
        """Tell every worker that the run is over; those that are away learn it when they come back, from a note in the store."""
        for rank in self.members.workers:
            self._shared.dismiss(rank, OVER)
        self._leave_notes()
        for worker in self.members.workers.values():
            self._give(worker, Command.end(worker.generation))
        self._end_keeper(_END_PATIENCE if all(worker.is_free for worker in self.members.workers.values()) else 1.0)

    def _leave_notes(self) -> None:
        with suppress(DistError, RunError):  # whoever finds no note gives up in its own time
            store = self._connect(_STORE_PATIENCE)
            store.set_timeout(timedelta(seconds=_STORE_PATIENCE))
            for rank, key in self._keys.items():
                leave_note(store, rank, key, self._life, END)

    def _end_keeper(self, patience: float) -> None:
        until = time.monotonic() + patience
        while os.waitpid(self._keeper, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(self._keeper, signal.SIGKILL)  # its gateways go with it
                os.waitpid(self._keeper, 0)
                break
            time.sleep(0.01)
        os.close(self._events)
        for worker in self.members.workers.values():
            os.close(worker.commands)
