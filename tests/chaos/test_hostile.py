"""Hostile workers and strangers against one server, this process: it survives, and gets the replies of honest clients in time."""

import ast
import contextlib
import os
import resource
import socket
import sys
import time
from collections import Counter
from dataclasses import replace

import psutil
import pytest
import torch

from byzdist.torch_private import Store
from byzdist.transport import store
from byzdist.transport.store import Connect
from byzdist.transport.wire import Header
from tests.support.harness import Job
from tests.support.star import TERMS, Missing, Star, enter, reply, shape_of, truth, values

ENDLESS = replace(TERMS, offences=10**9, join_timeout=60.0)
DEADLINE = 2.0
SERVER = os.getpid()


def port_of() -> str:
    return os.environ["MASTER_PORT"]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("attackers, count", [(1, 400), pytest.param(4, 100_000, marks=pytest.mark.soak)])
def test_a_stream_of_hostile_messages(attackers: int, count: int) -> None:
    """The attackers share the messages, and the honest workers are heard in every round."""
    each, ranks = count // attackers, range(3, 3 + attackers)
    with Star(shape_of(2 + attackers), ENDLESS) as star, contextlib.ExitStack() as stack:
        star.start_honest(1, 2)
        star.joined(1, 2)
        keeper = psutil.Process(star.server.gateways.keeper)
        commands = [["-m", "tests.chaos.hostile", port_of(), f"{rank}", f"{rank + 4}", f"{each}"] for rank in ranks]
        jobs = [stack.enter_context(Job([sys.executable, *command])) for command in commands]
        accepted = missing = 0
        while any(job.process.poll() is None for job in jobs):
            started = time.monotonic()
            replies = star.ask(full=True, deadline=DEADLINE)
            assert time.monotonic() - started <= 1.1 * DEADLINE
            for client in (0, 1):
                assert torch.equal(values(replies.pop(client)), truth(star, client, full=True))
            why = [reply.reason for reply in replies.values() if isinstance(reply, Missing)]
            missing += len(why)
            accepted += attackers - len(why)
            if sum(reason.startswith(("left", "has not")) for reason in why) == attackers:
                star.server.listen(0.05)  # rounds without an attacker prove nothing
        assert [job.wait(10) for job in jobs] == [0] * attackers, [job.output for job in jobs]
        sent = sum((Counter(ast.literal_eval(job.output.splitlines()[-1])) for job in jobs), Counter[str]())
        print(dict(sent), f"{accepted} accepted, {missing} missing in {star.round + 1} rounds")
        assert keeper.is_running() and psutil.Process(star.server.gateways.keeper) == keeper
        assert not [news for news in star.server.events if "worker 1" in news or "worker 2" in news]
        assert sent.total() >= count and len(sent) == 8, sent
        assert missing >= 0.5 * count, (accepted, missing)
        assert accepted > 0, "those that are not finite, at least, are well-formed"
        joins = sum(news.endswith(" joined") for news in star.server.events)
        assert joins >= 0.9 * sent["oversize"], "an oversized message must have cost the link"


def come_and_go(rank: int, times: int) -> None:
    """Join so often, answer every other time one request, and leave without a word."""
    request = torch.zeros(10_000, dtype=torch.uint8)
    for turn in range(times):
        link = enter(rank)
        if turn % 2:
            link.receive(request)
            link.send(reply(Header.read(request).round, rank - 1, torch.zeros(10, dtype=torch.float64)))
        del link


def footprint() -> tuple[int, int]:
    """Return this process's open files and its resident bytes."""
    return len(os.listdir("/proc/self/fd")), psutil.Process().memory_info().rss


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [12, pytest.param(1000, marks=pytest.mark.soak)])
def test_workers_that_come_and_go(count: int) -> None:
    visitors, terms = (2, 3, 4, 5), replace(ENDLESS, offences=3)
    with Star(shape_of(5), terms) as star, contextlib.ExitStack() as stack:
        star.start_honest(1)
        star.joined(1)
        words = f"from tests.support.star import meet_at; from tests.chaos import test_hostile; meet_at({port_of()}); "
        jobs = [
            stack.enter_context(
                Job([sys.executable, "-c", f"{words} test_hostile.come_and_go({rank}, {count // len(visitors)})"])
            )
            for rank in visitors
        ]
        joins, before, rounds_ = Counter[int](), None, 0
        while any(job.process.poll() is None for job in jobs):
            started = time.monotonic()
            replies = star.ask(full=True, deadline=DEADLINE)
            assert time.monotonic() - started <= 1.1 * DEADLINE
            assert torch.equal(values(replies[0]), truth(star, 0, full=True))
            rounds_ += 1
            star.server.listen(0.02)
            joins.update(int(news.split()[1]) for news in star.server.events if news.endswith(" joined"))
            star.server.events.clear()
            if before is None and joins.total() >= count // 10:
                before = footprint()
        assert [job.wait(10) for job in jobs] == [0] * len(jobs), [job.output for job in jobs]
        while star.server.listen(0.5):
            pass
        joins.update(int(news.split()[1]) for news in star.server.events if news.endswith(" joined"))
        assert joins == dict.fromkeys(visitors, count // len(visitors))
        assert star.server.snapshot(0)["workers"] == [], "it is no offence to leave"
        assert before is not None
        after = footprint()
        print(f"{joins.total()} joins, {rounds_} rounds, files and memory before and after: {before} {after}")
        assert after[0] <= before[0] + 10 and after[1] <= 1.1 * before[1]


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
        assert star.server.events == [], "an open link broke"
        # The store asks a name server for the name of whoever connects, and a slow one holds up those who come after.
        star.start_honest(3, patience=60)
        star.joined(3, patience=60)
        assert torch.equal(values(star.ask(full=True)[2]), truth(star, 2, full=True))
