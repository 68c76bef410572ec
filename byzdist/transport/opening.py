"""How the ends of a run's transport are made in its processes."""

import os
from collections.abc import Callable

from byzdist.config.schema import Transport
from byzdist.torch_private import PrefixStore
from byzdist.transport.base import ServerEnd, Shape, WorkerEnd
from byzdist.transport.collective.group import open_group
from byzdist.transport.collective.server import CollectiveServer
from byzdist.transport.collective.worker import CollectiveWorker
from byzdist.transport.keys import own_key, run_secret, worker_key
from byzdist.transport.star.membership import Terms
from byzdist.transport.star.server import StarServer
from byzdist.transport.star.worker import StarWorker
from byzdist.transport.store import STORE_PATIENCE, connect, host
from byzdist.transport.waiting import Waiting

_END_PATIENCE = 5.0


def open_server(settings: Transport, shape: Shape, facts: str, memory: int) -> ServerEnd:
    """Return the server's end; the workers are told the facts, and may use ``memory`` bytes of the store.

    This forks: call it before the process starts a thread.
    """
    keys = {}
    if settings.name == "star":
        secret = run_secret()
        keys = {rank: worker_key(secret, rank) for rank in range(1, shape.workers + 1)}
    host(shape.workers, memory)  # until this process ends
    if settings.name == "star":
        terms = Terms(
            settings.deadline,
            settings.join_timeout,
            settings.min_replies,
            settings.offences,
            settings.late_share,
            settings.late == "keep",
        )
        return StarServer(shape, terms, keys, connect, facts)
    store = connect(STORE_PATIENCE)
    store.set("facts", facts)
    with waiting_for("all ranks"):
        open_group(PrefixStore("group", store), 0, shape.workers + 1, shape.device)
    return CollectiveServer(shape, settings.deadline + settings.join_timeout, settings.offences)


def open_worker(settings: Transport, shape: Shape, rank: int, agree: Callable[[str], None]) -> WorkerEnd:
    """Return a worker's end, still to be opened; ``agree`` is called with the server's facts before it takes part."""
    if settings.name == "star":
        worker = StarWorker(shape, rank, own_key(rank), connect, settings.join_timeout, agree)
        worker.end_with_the_run(_END_PATIENCE)
        return worker
    with waiting_for("the server"):
        store = connect(STORE_PATIENCE)
    agree(store.get("facts").decode())
    with waiting_for("all ranks"):
        open_group(PrefixStore("group", store), rank, shape.workers + 1, shape.device)
    return CollectiveWorker(shape)


def waiting_for(whom: str) -> Waiting:
    """Return the context in which a process waits for others of its job, and says so."""
    return Waiting(lambda: f"{whom} at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}", STORE_PATIENCE)
