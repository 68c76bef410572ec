"""A network between real processes that is cut for a minute and comes back, in two network namespaces."""

import os
import secrets
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.test_faults import CONFIG
from tests.support.harness import Job, Run, write_config

WORKERS, CUT = 4, 60.0
FAR = (3, 4)  # the workers in the namespace of their own
SETTINGS: dict[str, Any] = {
    **CONFIG,
    "rounds": 1_000_000,
    "transport": {**CONFIG["transport"], "join_timeout": 60.0},
    "evaluate": {"every": 1000},
    "attack": {
        "name": "slow",
        "seconds": 0.1,
        "clients": [4],
    },  # client 4 lives on rank 1; a pace that leaves the machine some rest
}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Hosts:
    """Two namespaces with a cable."""

    near: str
    far: str
    address: str = "10.98.0.1"

    def cut(self) -> None:
        """Take the cable out: nothing arrives any more, and nobody is told."""
        ip("-n", self.far, "link", "set", "eth0", "down")

    def mend(self) -> None:
        ip("-n", self.far, "link", "set", "eth0", "up")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Make the namespaces, where this process may."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip (iproute2)")
    name = f"byzdist-{uuid.uuid4().hex[:8]}"
    made = Hosts(f"{name}-a", f"{name}-b")
    with ExitStack() as stack:
        try:
            for host in (made.near, made.far):
                ip("netns", "add", host)
                stack.callback(ip, "netns", "del", host)
            ip("link", "add", "eth0", "netns", made.near, "type", "veth", "peer", "name", "eth0", "netns", made.far)
            for host, number in ((made.near, 1), (made.far, 2)):
                ip("-n", host, "addr", "add", f"10.98.0.{number}/24", "dev", "eth0")
                ip("-n", host, "link", "set", "lo", "up")
                ip("-n", host, "link", "set", "eth0", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this system has no network namespaces for tests: {error.stderr.strip()}")
        yield made


def wait_until(what: str, patience: float, is_so: Callable[[], bool], jobs: list[Job]) -> None:
    """Wait until something is so, while all processes are there."""
    until = time.monotonic() + patience
    while not is_so():
        for rank, job in enumerate(jobs):
            assert job.process.poll() is None, f"rank {rank} has ended\n{job.output}"
        assert time.monotonic() < until, f"{what}: waited in vain\n" + "\n".join(job.output for job in jobs)
        time.sleep(0.2)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_network_that_is_cut_for_a_minute_heals_three_times(hosts: Hosts, tmp_path: Path) -> None:
    config, out = write_config(tmp_path, SETTINGS), tmp_path / "run"
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_hex(32))
    environment = {
        "MASTER_ADDR": hosts.address,
        "MASTER_PORT": "29500",
        "WORLD_SIZE": f"{1 + WORKERS}",
        "BYZDIST_SECRET_FILE": str(secret),
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }

    def events(text: str) -> int:
        lines = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []
        return sum(line.count(f'"{text}') for line in lines)

    def rounds() -> int:
        return (out / "metrics.jsonl").read_text().count("\n")

    with ExitStack() as stack:
        jobs = []
        for rank in range(1 + WORKERS):
            host = hosts.far if rank in FAR else hosts.near
            command = ["ip", "netns", "exec", host, sys.executable, "-m", "byzdist", "run", str(config)]
            command += ["--out", str(out)] if rank == 0 else []
            jobs.append(stack.enter_context(Job(command, env={**environment, "RANK": f"{rank}"})))
        wait_until("all join", 90, lambda: all(events(f"worker {rank} joined") for rank in range(1, 1 + WORKERS)), jobs)
        for cut in range(1, 4):
            hosts.cut()
            until, before = time.monotonic() + CUT, rounds()
            wait_until("they are gone", CUT, lambda: all(events(f"worker {r} left") >= cut for r in FAR), jobs)  # noqa: B023
            wait_until("the cut is over", CUT + 5, lambda: time.monotonic() > until, jobs)  # noqa: B023
            assert rounds() > before + 50, "the others went on"
            assert all(events(f"worker {rank} joined") == cut for rank in FAR), "the network was not cut"
            hosts.mend()
            began = time.monotonic()
            wait_until("they are back", 60, lambda: all(events(f"worker {r} joined") > cut for r in FAR), jobs)  # noqa: B023
            print(f"cut {cut}: back after {time.monotonic() - began:.1f} s")
        for rank in (1, 2):
            assert events(f"worker {rank} joined") == 1 and not events(f"worker {rank} left")
        before = rounds()
        wait_until("rounds go by", 30, lambda: rounds() > before + 20, jobs)
        last = Run(out, "").metrics[-1]
        assert not last["missing"]
        jobs[0].process.terminate()
        assert [job.wait(60) for job in jobs] == [0] * len(jobs), [job.output for job in jobs]
