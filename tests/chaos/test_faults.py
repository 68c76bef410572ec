"""Real processes with one faulty client among five: every run ends, in time, and near where the fault-free one does."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Run, byzdist, train, write_config

CONFIG: dict[str, Any] = {
    "name": "chaos",
    "seed": 3,
    "rounds": 120,
    "clients": {"count": 5, "byzantine": 1},
    "data": {"name": "synthetic", "samples": 200, "features": 10, "separation": 2.0},
    "model": {"name": "logistic_regression", "l2": 0.1},
    "method": {"name": "byz_vr_marina_pp", "step_size": 0.5, "p": 0.2, "batch_size": 16, "cohort": 3, "clip": 10.0},
    "aggregation": {"rule": "coordinate_median"},
    "transport": {"name": "star", "deadline": 2.0, "join_timeout": 20.0, "restarts": 20},
    "evaluate": {"every": 20},
    "device": "cpu",
    "dtype": "float64",
}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {  # with what must be found in some round's news or missing replies
    "crash": ({"name": "crash", "rounds": [20, 30]}, "left: connection closed"),
    "hang": ({"name": "hang", "rounds": [20, 120]}, "no reply by the deadline"),
    "slow": ({"name": "slow", "seconds": 3.0, "rounds": [20, 30]}, "no reply by the deadline"),
    "oversize": ({"name": "oversize", "rounds": [20, 120]}, "sent more than it was asked for"),
    "short": ({"name": "short", "rounds": [20, 120]}, "is in quarantine after 3 offences"),
    "garbage": ({"name": "garbage", "rounds": [20, 120]}, "no byzdist message"),
    "replay": ({"name": "replay", "rounds": [20, 120]}, "reply to round"),
    "nan": ({"name": "nan", "rounds": [20, 120]}, "is in quarantine after 3 offences, the last: not finite"),
}
DEADLINE = CONFIG["transport"]["deadline"]


@pytest.fixture(scope="module")
def fault_free(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("fault_free"), CONFIG, workers=5)


def check(run: Run, fault_free: Run) -> None:
    """Check what holds whatever happened: all rounds, none beyond its deadline, and a result as good."""
    lines = run.metrics
    assert [line["round"] for line in lines] == list(range(CONFIG["rounds"] + 1))
    assert max(line["seconds"]["request"] + line["seconds"]["wait"] for line in lines) <= 1.1 * DEADLINE
    start, end = fault_free.metrics[0]["gap"], fault_free.summary["gap"]
    assert end < 1e-3 * start, "the fault-free run goes nowhere, so that it is no measure"
    assert run.summary["gap"] < end + 1e-3 * start


def reports(run: Run) -> str:
    return "\n".join(str(line.get("news", "")) + str(line["missing"]) for line in run.metrics)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_no_more_than_its_client(name: str, tmp_path: Path, fault_free: Run) -> None:
    attack, report = FAULTS[name]
    run = train(tmp_path, {**CONFIG, "attack": attack}, workers=5)
    check(run, fault_free)
    assert report in reports(run)
    late = [line for line in run.metrics if "no reply by the deadline" in line["missing"].values()]
    assert all(line["seconds"]["wait"] >= 0.9 * DEADLINE for line in late)


def test_a_killed_and_a_stopped_worker_come_back(tmp_path: Path, fault_free: Run) -> None:
    config = {**CONFIG, "attack": {"name": "slow", "seconds": 0.05}}
    with byzdist("run", write_config(tmp_path, config), "--workers", "5", "--out", tmp_path / "run") as job:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.exists() or not metrics.read_text():
            assert job.process.poll() is None
            time.sleep(0.05)
        job.rank(2).kill()
        stopped = job.rank(3)
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(2)
        stopped.send_signal(signal.SIGCONT)
        assert job.wait(120) == 0, job.output
        job.assert_clean()
    run = Run(tmp_path / "run", job.output)
    check(run, fault_free)
    assert "worker 2 left: connection closed" in reports(run)
    assert "[w2] the worker process was ended by SIGKILL; starting it again (1 of 20)." in run.output


def test_the_end_of_the_server_is_the_end_of_everything(tmp_path: Path) -> None:
    config = {**CONFIG, "rounds": 100_000}
    with byzdist("run", write_config(tmp_path, config), "--workers", "3", "--out", tmp_path / "run") as job:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert job.process.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        job.rank(0).kill()
        assert job.wait(60) == 1, job.output
        job.assert_clean()
