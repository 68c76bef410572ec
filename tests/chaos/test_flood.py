"""A stranger floods the port of the job's store: the run goes on, the server does not grow, and can still save."""

import ast
import json
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from byzdist.storage import checkpoint
from tests.support.cases import BASE
from tests.support.harness import Job, byzdist, write_config

CONFIG = {**BASE, "rounds": 10**7, "clients": {"count": 4, "byzantine": 1}, "evaluate": {"every": 10**6}}
CONFIG |= {"method": {**BASE["method"], "cohort": 3}, "checkpoint": {"every": 50}}


def lines(folder: Path) -> list[dict]:
    metrics = folder / "metrics.jsonl"
    return [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []


def until(job: Job, what: str, is_so, patience: float = 90) -> None:
    end = time.monotonic() + patience
    while not is_so():
        assert job.process.poll() is None and time.monotonic() < end, f"{what}\n{job.output}"
        time.sleep(0.05)


def stores(job: Job) -> dict[int, psutil.Process]:
    """Return the processes of the store: its keeper, and the store itself."""
    found = {}
    for process in job.processes():
        with suppress(psutil.Error):
            if process.name() == "byzdist-store":
                found[process.pid] = process
    return found


def size(server: psutil.Process) -> tuple[int, int]:
    """Return the server's bytes in memory, and its descriptors."""
    return server.memory_info().rss, server.num_fds()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [8.0, pytest.param(80.0, marks=pytest.mark.soak)])
def test_a_flood_of_the_store_harms_neither_the_run_nor_its_server(tmp_path: Path, seconds: float) -> None:
    folder = tmp_path / "run"
    with byzdist("run", write_config(tmp_path, CONFIG), "--workers", "2", "--out", folder) as job:
        until(job, "no rounds", lambda: len(lines(folder)) > 200)
        server = job.rank(0)
        first = stores(job)
        (port,) = {
            connection.laddr.port
            for process in first.values()
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        before, rounds = size(server), len(lines(folder))
        sizes, largest, later = [], 0, set[int]()
        with Job([sys.executable, "-m", "tests.chaos.flood", str(port), str(seconds)]) as flood:
            while flood.process.poll() is None:
                sizes.append(size(server))
                for process in stores(job).values():
                    later.add(process.pid)
                    with suppress(psutil.Error):
                        largest = max(largest, process.memory_full_info().uss)
                time.sleep(0.05)
            assert flood.wait(10) == 0, flood.output
        sent = ast.literal_eval(flood.output.splitlines()[-1])
        during = len(lines(folder)) - rounds
        # The worker that is killed now joins by a store that was started again.
        job.rank(2).kill()
        joined = sum("worker 2 joined" in line.get("news", []) for line in lines(folder))
        until(
            job,
            "worker 2 did not come back",
            lambda: sum("worker 2 joined" in line.get("news", []) for line in lines(folder)) > joined,
        )
        after = size(server)
        job.process.terminate()
        assert job.wait(60) == 0, job.output
        job.assert_clean()
    print(f"sent {sent}; {during} rounds meanwhile; {len(later) - 2} new stores, up to {largest >> 20} MB")
    print(f"server (bytes, descriptors): before {before}, during up to {tuple(map(max, *sizes))}, after {after}")
    assert sent["megabytes"] > 64 and sent["connections"] > 500, sent
    assert later - first.keys(), "the store was never full: the test tests nothing"
    assert during > 20 * seconds / 8
    assert largest < 350 << 20
    for now in [*sizes, after]:
        assert now[0] <= 1.1 * before[0], "memory of the server"
        assert abs(now[1] - before[1]) <= 10, "descriptors of the server"
    assert len(first) == 2
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert max(checkpoint.rounds(folder / "checkpoint")) == summary["rounds"] - 1
