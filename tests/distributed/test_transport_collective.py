"""How long the collective transport waits, and what it really sends, against a count from the metrics alone."""

import multiprocessing
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.distributed as dist

from byzdist.errors import RunError
from byzdist.rounds import Round
from byzdist.torch_private import PrefixStore
from byzdist.transport.base import Received, Reply, Request, Save
from byzdist.transport.collective.group import open_group
from byzdist.transport.collective.server import CollectiveServer
from byzdist.transport.collective.worker import CollectiveWorker
from byzdist.transport.store import connect, host
from byzdist.transport.wire import Stage
from tests.support.cases import RAND_K, case
from tests.support.harness import free_port, train
from tests.support.star import meet_at, shape_of

HEADER, IDS = 64, 64  # bytes; a request's header, and the room for the ids of a cohort of 5
D, K, CLIENTS = 12, 5, 9


@pytest.mark.parametrize("workers", [2, 5])
def test_no_more_is_sent_than_is_needed(tmp_path, workers):
    config = {**case("none", RAND_K), "transport": {"name": "collective"}}
    run = train(tmp_path, config, workers=workers)
    model = 8 * D
    holds = dict.fromkeys(range(workers), -1)  # the round whose model a worker holds
    spared = 0
    for line in run.metrics:
        hosts = {client % workers for client in line["cohort"]}
        if line["kind"] == "full":
            hosted = [sum(client % workers == worker for client in line["cohort"]) for worker in range(workers)]
            # Everyone's ids need not be sent; each turn of a gather takes one message from each worker.
            assert line["bytes_down"] == workers * (HEADER + model)
            assert line["bytes_up"] == max(hosted) * workers * (HEADER + model)
            hosts = set(range(workers))
        else:
            lacking = sum(holds[worker] != line["round"] - 1 for worker in hosts)
            spared += len(hosts) - lacking
            assert line["bytes_down"] == len(hosts) * (HEADER + IDS + model) + lacking * model
            assert line["bytes_up"] == len(line["cohort"]) * (HEADER + 8 * K)
        for worker in hosts:
            holds[worker] = line["round"]
    assert spared > 10, "workers that held x^{k-1} were not sent it again"


LARGE = 2_000_000  # values, more than a connection takes that nobody reads


def serve(port, shape, rank, delay):
    """Be an honest worker that takes its time, or for ever where that is None."""
    torch.set_num_threads(1)
    meet_at(port)
    open_group(PrefixStore("group", connect(30)), rank, shape.workers + 1, shape.device)
    if delay is None:
        time.sleep(60)

    def ones(payload):
        payload.fill_(1)

    worker = CollectiveWorker(shape)
    while (received := worker.receive()) is not None:
        if isinstance(received, Save):
            worker.answer(received, Stage.FAILED)
            continue
        assert isinstance(received, Received)
        for client in received.round.cohort[received.round.cohort % shape.workers + 1 == rank].tolist():
            time.sleep(delay)
            payload = worker.room(8 * shape.dimension).fill_(1)
            worker.reply(Reply(received.round, client, payload))


@contextmanager
def group(shape, delays, patience=1.0):
    """Bring a server and a worker for each delay together."""
    port = free_port()
    meet_at(port)
    spawn = multiprocessing.get_context("spawn").Process
    workers = [spawn(target=serve, args=(port, shape, rank, delay)) for rank, delay in enumerate(delays, 1)]
    for worker in workers:
        worker.start()
    end_store = host(shape.workers)
    open_group(PrefixStore("group", connect(30)), 0, shape.workers + 1, shape.device)
    try:
        yield CollectiveServer(shape, patience, offences=3)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        end_store()
        for worker in workers:
            worker.kill()
            worker.join()


def ask(server, shape, round_, cohort, full, deadline=5.0):
    server.send(Request(Round(round_, 0, full, np.array(cohort, dtype=np.int64)), 8 * shape.dimension, not full))
    return server.collect(deadline).payloads


def test_nobody_is_asked_and_failures_to_save_are_known():
    shape = shape_of(2, clients=4)
    with group(shape, [0, 0]) as server:
        for round_, (cohort, full) in enumerate([([0, 1, 3], True), ([], True), ([], False), ([1, 2], False)]):
            assert list(ask(server, shape, round_, cohort, full)) == cohort
        server.save(Save(3, 0))
        assert (server.unsaved(), server.end_save()) == ([], [1, 2])
        server.stop()


def test_a_round_has_one_deadline_for_all():
    shape = shape_of(2)
    with group(shape, [0.6, 1.5]) as server:  # a second reply within a deadline of its own
        with pytest.raises(RunError, match="worker rank 2 .* silent beyond the deadline"):
            ask(server, shape, 0, [0, 1], full=False, deadline=1.0)


@pytest.mark.parametrize(
    "action, reason",
    [
        (lambda server: server.resume(0, {"holders": [1]}, True), "does not take its message"),
        (lambda server: server.save(Save(0, 0)), "worker rank 1 is gone or silent"),
    ],
)
def test_a_worker_that_hangs_ends_the_run_whatever_it_was_to_do(action, reason):
    with group(shape_of(1, dimension=LARGE), [None]) as server:
        started = time.monotonic()
        with pytest.raises(RunError, match=reason):
            action(server)
        assert time.monotonic() - started < 20
