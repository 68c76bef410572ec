"""Hostile workers and strangers against one server, this process: it stays, and hears honest clients in time."""

import ast
import contextlib
import os
import resource
import socket
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch

from byzdist.torch_private import Store
from byzdist.transport import store
from byzdist.transport.base import Missing
from byzdist.transport.store import Connect
from tests.harness import Job
from tests.star import TERMS, Star, shape_of, truth, values

ENDLESS = replace(TERMS, offences=10**9, join_timeout=60.0)
DEADLINE = 2.0
SERVER = os.getpid()


def port_of() -> str:
    return os.environ["MASTER_PORT"]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.soak)])
def test_a_stream_of_hostile_messages(count: int) -> None:
    with Star(shape_of(3), ENDLESS) as star:
        star.start_honest(1, 2)
        star.joined(1, 2)
        with Job([sys.executable, "-m", "tests.chaos.hostile", port_of(), "3", "7", str(count)]) as job:
            accepted = missing = 0
            while job.process.poll() is None:
                started = time.monotonic()
                replies = star.ask(full=True, deadline=DEADLINE)
                assert time.monotonic() - started <= 1.1 * DEADLINE
                for client in (0, 1):
                    assert torch.equal(values(replies[client]), truth(star, client, full=True))
                accepted += not isinstance(replies[2], Missing)
                missing += isinstance(replies[2], Missing)
                if isinstance(replies[2], Missing) and replies[2].reason.startswith(("left", "has not")):
                    star.server._listen(0.05)  # rounds without the attacker prove nothing
            assert job.wait(10) == 0, job.output
        sent = ast.literal_eval(job.output.splitlines()[-1])
        assert sum(sent.values()) >= count and len(sent) == 8, sent
        assert missing >= 0.5 * count, (accepted, missing)
        assert accepted > 0, "those that are not finite, at least, are well-formed"
        joins = sum(news == "worker 3 joined" for news in star.server.news)
        assert joins >= 0.9 * sent["oversize"], "an oversized message must have cost the link"


def listening(star: Star) -> list[int]:
    """Return the ports on which this process and its gateways listen."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = set()
    for process in family:
        with contextlib.suppress(psutil.Error):
            found |= {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return sorted(found)


def connect_with_few_files(patience: float) -> Store:
    """Connect a process that may open hardly more files than it needs, where it is a gateway."""
    if os.getpid() != SERVER:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, most))
    return store.connect(patience)


@pytest.mark.parametrize("connect", [store.connect, connect_with_few_files], ids=["many files", "few files"])
def test_strangers_at_every_port(connect: Connect) -> None:
    with Star(shape_of(3), connect=connect) as star, contextlib.ExitStack() as open_sockets:
        star.start_honest(1, 2)  # the gateway of worker 3 is still waiting
        star.joined(1, 2)
        ports = listening(star)
        assert int(port_of()) in ports and len(ports) >= 3, ports
        for wave in range(5):
            for port in ports:
                for _ in range(20):
                    stranger = open_sockets.enter_context(socket.socket())
                    stranger.setblocking(False)  # the ports of open links answer nobody
                    stranger.connect_ex(("127.0.0.1", port))
                    if wave % 2:  # the others say nothing
                        with contextlib.suppress(OSError):
                            stranger.send(os.urandom(4096))
            started = time.monotonic()
            replies = star.ask(full=True, deadline=DEADLINE)
            assert time.monotonic() - started <= 1.1 * DEADLINE
            for client in (0, 1):
                assert torch.equal(values(replies[client]), truth(star, client, full=True))
        assert star.server.news == [], "an open link broke"
        # The store asks a name server for the name of whoever connects, and a slow one holds up those who come after.
        star.start_honest(3, patience=60)
        star.joined(3, patience=60)
        assert torch.equal(values(star.ask(full=True)[2]), truth(star, 2, full=True))
