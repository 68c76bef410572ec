"""A whole run in one process, for tests: the true server and workers over a transport of queues and threads.

Every message is packed, copied as bytes and checked as on a real transport; only the network is missing.
"""

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzdist.attacks.collusion import Collusion
from byzdist.config.reading import parse
from byzdist.config.schema import Config
from byzdist.problem.evaluation import Evaluator
from byzdist.reporting.metrics import Line, Metrics
from byzdist.rounds import Replies, Round
from byzdist.runtime.experiment import Experiment, prepare
from byzdist.runtime.identity import claim
from byzdist.runtime.rank import serve
from byzdist.runtime.server import Server
from byzdist.runtime.worker import Worker
from byzdist.storage.folder import RunFolder
from byzdist.storage.saving import WorkerSaver
from byzdist.torch_private import HashStore, Store
from byzdist.transport.base import (
    Forge,
    Missing,
    Received,
    Request,
    Resume,
    Save,
    ServerEnd,
    Shape,
    WorkerEnd,
    reply_rows,
    sorted_out,
)
from byzdist.transport.wire import (
    AFRESH,
    HAS_MODEL,
    HAS_PREVIOUS,
    HEADER_BYTES,
    Header,
    Kind,
    Stage,
    WireError,
    check_reply,
    checksum,
    read_stage,
)

Reply = tuple[int, Tensor] | BaseException  # a client's message, or what ended a worker


class LocalServer(ServerEnd):
    """The server's end: a queue of requests for each worker, and one queue of replies for all."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.frame = shape.frame()
        self._bytes_down = 0
        self.news: list[str] = []
        self.requests: dict[int, queue.Queue[Tensor]] = {r: queue.Queue() for r in range(1, shape.workers + 1)}
        self.replies: queue.Queue[Reply] = queue.Queue()
        self.answers: queue.Queue[Reply] = queue.Queue()
        self._request: Request
        self._saving, self._unsaved, self._failed = Save(-1, 0), set[int](), list[int]()

    def available(self) -> np.ndarray:
        return np.arange(self._shape.clients)

    def send(self, request: Request) -> None:
        self._request = request
        self._bytes_down = 0
        kind = Kind.FULL if request.round.full else Kind.SAMPLED
        number, cohort = request.round.number, request.round.cohort
        everyone = len(cohort) == self._shape.clients
        flags = HAS_MODEL | HAS_PREVIOUS * request.needs_previous
        (message,) = self.frame.pack(kind, number, cohort, everyone=everyone, flags=flags)
        for rank in {self._shape.rank(int(client)) for client in cohort}:
            self.requests[rank].put(message.clone())
            self._bytes_down += message.nbytes

    def collect(self, deadline: float) -> Replies:
        request, found, bytes_up, afresh = self._request, dict[int, Tensor | Missing](), 0, set[int]()
        while len(found) < len(request.round.cohort):
            reply = self.replies.get(timeout=deadline)
            if isinstance(reply, BaseException):
                raise reply
            client, message = reply
            payload = message[HEADER_BYTES:]
            try:
                total = Header.read(message).checksum
                check_reply(message, total, request.round.number, client, request.length)
                found[client] = payload
            except WireError as error:
                found[client] = Missing(str(error))
            bytes_up += message.nbytes
            if Header.read(message).flags & AFRESH:
                afresh.add(client)
        return sorted_out(dict(sorted(found.items())), afresh, self._bytes_down, bytes_up)

    def resume(self, round_: int, position: dict[str, Any], everyone: bool) -> None:
        if everyone:
            self._order(Kind.RESUME, round_, 0, self.requests)

    def save(self, order: Save) -> None:
        if order != self._saving:
            self._saving, self._unsaved, self._failed = order, set(self.requests), []
        asked = sorted(self._unsaved)
        self._order(Kind.SAVE, order.round, order.oldest, asked)
        for _ in asked:
            answer = self.answers.get(timeout=30)
            if isinstance(answer, BaseException):
                raise answer
            rank, message = answer
            stage = read_stage(message, order.round)
            if stage is not Stage.WRITING:
                self._unsaved.remove(rank)
            if stage is Stage.FAILED:
                self._failed.append(rank)

    def unsaved(self) -> list[int]:
        return sorted(self._unsaved)

    def end_save(self) -> list[int]:
        return sorted([*self._failed, *self._unsaved])

    def _order(self, kind: Kind, round_: int, length: int, ranks: Iterable[int]) -> None:
        for rank in ranks:
            message = torch.zeros(HEADER_BYTES, dtype=torch.uint8)
            Header(kind, round_, 0, 0, length).write(message)
            self.requests[rank].put(message)

    def stop(self) -> None:
        (message,) = self.frame.pack(Kind.STOP, 0, np.arange(0), everyone=True, flags=0)
        for requests in self.requests.values():
            requests.put(message.clone())


class LocalWorker(WorkerEnd):
    """A worker's end."""

    def __init__(self, shape: Shape, rank: int, server: LocalServer) -> None:
        self._shape, self._server, self._requests = shape, server, server.requests[rank]
        self._rank = rank

    def receive(self) -> Received | Save | Resume | None:
        message, frame = self._requests.get(), self._shape.frame()
        frame.buffer[: len(message)] = message
        header = Header.read(frame.buffer)
        if header.kind is Kind.STOP:
            return None
        if header.kind is Kind.SAVE:
            return Save(header.round, header.length)
        if header.kind is Kind.RESUME:
            return Resume(header.round)
        cohort = frame.cohort(header, self._shape.clients)
        mine = self._shape.hosted(cohort, self._rank)
        previous = frame.previous if header.flags & HAS_PREVIOUS else None
        round_ = Round(header.round, self._shape.seed, header.kind is Kind.FULL, cohort)
        return Received(round_, mine, frame.current, previous)

    def reply(
        self,
        round_: Round,
        client: int,
        length: int,
        fill: Callable[[Tensor], None],
        forge: Forge | None = None,
        flags: int = 0,
    ) -> None:
        row = reply_rows(1, self._shape.longest, torch.device("cpu"))[0]
        fill(row.payload[:length])
        Header(Kind.REPLY, round_.number, client, flags, length, checksum(row.payload[:length])).write(row.message)
        message = row.message[: HEADER_BYTES + length].clone()
        self._server.replies.put((client, message if forge is None else forge(message)))

    def answer(self, order: Save, stage: Stage) -> None:
        message = torch.zeros(HEADER_BYTES, dtype=torch.uint8)
        Header(Kind.SAVED, order.round, stage).write(message)
        self._server.answers.put((self._rank, message))


def without(replies: Replies, lost: dict[int, str]) -> Replies:
    """Return replies of which those of some clients are missing, with a reason for each client."""
    payloads = {client: payload for client, payload in replies.payloads.items() if client not in lost}
    missing = {client: reason for client, reason in lost.items() if client in replies.payloads}
    return replace(replies, payloads=payloads, missing=replies.missing | missing)


@dataclass(frozen=True)
class Trained:
    """What a run leaves."""

    status: str
    x: Tensor
    g: Tensor
    metrics: list[Line]
    experiment: Experiment


def train(
    tree: dict[str, Any], folder: Path, workers: int = 2, tamper: Callable[[Server, int], object] | None = None
) -> Trained:
    """Run a configuration to its end; ``tamper`` is called with the server and the round after each round."""
    config = parse(tree)
    experiment = prepare(config, torch.device("cpu"))
    transport = LocalServer(experiment.shape(workers))
    threads = start_workers(config, workers, transport)
    evaluator = Evaluator(experiment.oracle, experiment.dataset, config.clients.good)
    lines: list[Line] = []

    def show(line: Line, metrics: Metrics) -> None:
        lines.append(line)
        if tamper:
            tamper(server, line["round"])

    metrics = Metrics(folder)
    server = Server(experiment, transport, metrics, evaluator.evaluate, show)
    try:
        status = server.run()
    finally:
        transport.stop()
        for thread in threads:
            thread.join(30)
    metrics.close(status)
    return Trained(status, server.x.clone(), server.g.clone(), lines, experiment)


def train_in(
    tree: dict[str, Any], folder: Path, workers: int = 2, resume: bool = False, end: type[LocalServer] = LocalServer
) -> torch.Tensor:
    """Run a configuration with all that a real run leaves in its folder, from the start or from its last checkpoint.

    Args:
        end: the class of the server's end, for tests that interfere there.

    Returns:
        The final model.
    """
    config = parse(tree)
    experiment = prepare(config, torch.device("cpu"))
    transport = end(experiment.shape(workers))
    run = claim(folder, experiment, resume)
    threads = start_workers(config, workers, transport, run)
    try:
        serve(experiment, workers, run, transport)
    finally:
        transport.stop()
        for thread in threads:
            thread.join(30)
        run.lock.release()
    return transport.frame.current.clone()


def start_workers(
    config: Config, workers: int, transport: LocalServer, run: RunFolder | None = None
) -> list[threading.Thread]:
    """Start the threads of all workers."""
    channel = HashStore()
    lives, missing = (run.lives, run.missing) if run else ((0, None), [])  # now: the server lets go of the checkpoint
    # Prepared one by one: Python's parser, which evaluates annotations, is not safe in several threads.
    prepared = [prepare(config, torch.device("cpu")) for _ in range(workers)]
    threads = [
        threading.Thread(
            target=_work, args=(experiment, rank, workers, transport, channel, run, lives, missing), daemon=True
        )
        for rank, experiment in enumerate(prepared, 1)
    ]
    for thread in threads:
        thread.start()
    return threads


def _work(
    experiment: Experiment,
    rank: int,
    workers: int,
    server: LocalServer,
    channel: Store,
    run: RunFolder | None,
    lives: tuple[int, int | None],
    missing: list[int],
) -> None:
    try:
        shape = experiment.shape(workers)
        collusion = Collusion(lambda: channel, shape.dimension, shape.dtype, patience=30)
        saver = None
        if run and experiment.clients_remember:
            saver = WorkerSaver(run.checkpoints, run.name, lives, rank, workers, missing)
        method, compressors = experiment.method, experiment.compressors
        worker = Worker(experiment.config, experiment.oracle, method, compressors, collusion, saver)
        worker.run(LocalWorker(shape, rank, server))
    except BaseException as error:
        server.replies.put(error)
