"""Thousands of rounds in which every worker is killed or stopped several times ends where a quiet run does."""

import random
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.test_faults import CONFIG
from tests.support.harness import Job, Run, byzdist, train, write_config

WORKERS = 5
SOAK: dict[str, Any] = {
    **CONFIG,
    "rounds": 5000,
    "transport": {**CONFIG["transport"], "restarts": 254, "join_timeout": 60.0},
    # A pace at which killed workers are back while the run still goes on.
    "attack": [{"name": "slow", "seconds": 0.1, "clients": [4]}],
}


def torment(job: Job, metrics: Path, seed: int, until: int) -> Counter[tuple[str, int]]:
    """Kill or stop workers at random times until the run has come to a round; return what was done to whom."""
    rng, done, stopped = random.Random(seed), Counter[tuple[str, int]](), dict[int, psutil.Process]()
    acts = [(number, rank) for number in (signal.SIGKILL, signal.SIGSTOP) for rank in range(1, WORKERS + 1)]
    while job.process.poll() is None and len(lines := metrics.read_text().splitlines()) < until:
        time.sleep(rng.uniform(0.2, 1.5))
        joined = Counter(re.findall(r"worker (\d+) joined", "\n".join(lines)))
        away = [rank for rank in range(1, WORKERS + 1) if joined[str(rank)] <= done["SIGKILL", rank]]
        if len({*away, *stopped}) > 2:  # with nobody left the run would rightly end
            if stopped:
                stopped.popitem()[1].send_signal(signal.SIGCONT)
            continue
        number, rank = min(acts, key=lambda act: (done[act[0].name, act[1]], rng.random()))  # everyone's turn comes
        with suppress(psutil.Error, AssertionError):
            if stopped and rng.random() < 0.5:
                stopped.popitem()[1].send_signal(signal.SIGCONT)
            if rank in stopped:
                continue
            victim = job.rank(rank, timeout=1)
            if "BYZDIST_GRANT" not in victim.environ():
                continue  # the thin parent; its child is on its way
            victim.send_signal(number)
            done[number.name, rank] += 1
            if number is signal.SIGSTOP:
                stopped[rank] = victim
    for process in stopped.values():
        with suppress(psutil.Error):
            process.send_signal(signal.SIGCONT)
    return done


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_worker_dies_several_times(tmp_path: Path) -> None:
    quiet = train(tmp_path / "quiet", {**SOAK, "attack": "none"}, workers=WORKERS, timeout=1200)
    with byzdist("run", write_config(tmp_path, SOAK), "--workers", str(WORKERS), "--out", tmp_path / "run") as job:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.exists():
            assert job.process.poll() is None, job.output
            time.sleep(0.1)
        done = torment(job, metrics, seed=1, until=SOAK["rounds"] - 100)
        assert job.wait(600) == 0, job.output
        job.assert_clean()
    run = Run(tmp_path / "run", job.output)
    lines = run.metrics
    assert [line["round"] for line in lines] == list(range(SOAK["rounds"] + 1))
    print(dict(done), run.summary["gap"], quiet.summary["gap"], run.summary["missing"])
    for rank in range(1, WORKERS + 1):
        assert done["SIGKILL", rank] >= 2 and done["SIGSTOP", rank] >= 2, done
    assert max(line["seconds"]["wait"] for line in lines) <= 1.1 * SOAK["transport"]["deadline"]
    assert run.summary["missing"] > 0, "nobody was missed: the test tests nothing"
    # Both have converged as far as float64 lets them.
    assert quiet.summary["gap"] < 1e-10 and abs(run.summary["gap"] - quiet.summary["gap"]) < 1e-10
