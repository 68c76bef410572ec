"""Ranks whose data differ do not run together: the last line names the rank and the difference."""

import re
import sys
import time
from contextlib import ExitStack

import pytest

from tests.support.cases import BASE
from tests.support.harness import Job, free_port, write_config

# What data sets are prepared from is the same in all processes; so that rank 2 has its own, it has a cache of its own.
OTHER_DATA = """
import os
import numpy as np
from byzdist.problem.data import RawData


def make():
    samples, features = {SHAPE} if os.environ["RANK"] == "2" else (90, 10)
    return RawData(np.random.default_rng(0).standard_normal((samples, features)), np.arange(samples) % 2)
"""


@pytest.mark.parametrize(
    ("split", "shape", "difference"),
    [
        ("shared", (90, 9), "its data have 9 features, the server's 10; give every rank"),
        ("iid", (300, 10), r"its data have 300 samples, the server's 90; give every rank .*data\.where=worker"),
    ],
)
def test_a_worker_with_other_data_is_named_with_the_difference(tmp_path, split, shape, difference):
    (tmp_path / "other_data.py").write_text(OTHER_DATA.replace("{SHAPE}", str(shape)))
    path = write_config(tmp_path, {**BASE, "data": {"name": "other_data:make", "split": split}})
    job = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "BYZDIST_SECRET": "s" * 32}
    words = [sys.executable, "-m", "byzdist", "run", str(path), "--out", str(tmp_path / "run")]
    with ExitStack() as stack:
        jobs = [
            stack.enter_context(
                Job(words, env={**job, "RANK": f"{rank}", "BYZDIST_CACHE": str(tmp_path / f"cache-{rank}")})
            )
            for rank in range(3)
        ]
        assert jobs[2].wait(120) == 2, [started.output for started in jobs]
        last = jobs[2].output.strip().splitlines()[-1]
        assert re.search(f"worker 2: {difference}", last), last
        assert "Traceback" not in jobs[2].output
        for started in jobs:
            started.kill_all()


def said(job, words, patience=60):
    until = time.monotonic() + patience
    while not re.search(words, job.output):
        assert job.process.poll() is None and time.monotonic() < until, f"{words}\n{job.output}"
        time.sleep(0.05)


def test_both_sides_say_for_whom_they_wait(tmp_path):
    """Worker 1 comes before the server, and worker 2 never."""
    transport = {"deadline": 5.0, "join_timeout": 5.0, "min_replies": 1}
    path = write_config(tmp_path, {**BASE, "rounds": 3, "transport": transport})
    port = str(free_port())
    job = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "BYZDIST_SECRET": "s" * 32}
    words = [sys.executable, "-m", "byzdist", "run", str(path), "--out", str(tmp_path / "run")]
    with Job(words, env={**job, "RANK": "1"}) as worker:
        said(worker, rf"\[w1\] WARNING waiting for the server at 127.0.0.1:{port}: 3 s so far, \d+ s at most")
        with Job(words, env={**job, "RANK": "0"}) as server:
            said(server, r"\[server\] WARNING waiting for worker 2: 3 s so far, 5 s at most")
            said(server, r"\[server\] WARNING worker 2 has not joined; the run begins without")
            worker.kill_all()
