"""How the ends of a run's transport are made in its processes."""

import os
from collections.abc import Callable
from functools import partial

from torch._C._distributed_c10d import PrefixStore, Store

from byzdist.config import Transport
from byzdist.transport.base import ServerEnd, Shape, WorkerEnd
from byzdist.transport.collective import CollectiveServer, CollectiveWorker, open_group
from byzdist.transport.identity import run_secret, worker_key
from byzdist.transport.link import BRIEF, await_store, connect
from byzdist.transport.star import StarServer, Terms
from byzdist.transport.star_worker import StarWorker, end_with_the_run
from byzdist.waiting import Waiting

_STORE_PATIENCE = 300.0  # ranks of one job may start minutes apart
_END_PATIENCE = 5.0
Agree = Callable[[Store], None]


def open_server(settings: Transport, shape: Shape, agree: Agree) -> ServerEnd:
    """Return the server's end; ``agree`` is called with the job's store before any worker is let in.

    The star's forks: call this before the process starts a thread.
    """
    if settings.name == "star":
        secret = run_secret()
        keys = {rank: worker_key(secret, rank) for rank in range(1, shape.workers + 1)}
        terms = Terms(settings.deadline, settings.join_timeout, settings.min_replies, settings.offences)
        return StarServer(shape, terms, keys, partial(connect, patience=_STORE_PATIENCE), agree)
    store = connect(host=True, patience=_STORE_PATIENCE)
    agree(store)
    with _waiting("all ranks"):
        open_group(PrefixStore("group", store), 0, shape.workers + 1, shape.device)
    return CollectiveServer(shape, settings.deadline + settings.join_timeout)


def open_worker(settings: Transport, shape: Shape, rank: int, agree: Agree) -> tuple[WorkerEnd, Store]:
    """Return a worker's end and its connection to the store; ``agree`` is called before it joins."""
    with _waiting("the server"):
        await_store(_STORE_PATIENCE)
        store = connect(host=False, patience=_STORE_PATIENCE)
        agree(store)
    if settings.name == "star":
        key = worker_key(run_secret(), rank)
        store.set_timeout(BRIEF)
        end_with_the_run(store, rank, key, patience=_END_PATIENCE)
        return StarWorker(shape, rank, key, store, settings.join_timeout), store
    with _waiting("all ranks"):
        open_group(PrefixStore("group", store), rank, shape.workers + 1, shape.device)
    return CollectiveWorker(shape), store


def _waiting(whom: str) -> Waiting:
    return Waiting(lambda: f"{whom} at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}", _STORE_PATIENCE)
