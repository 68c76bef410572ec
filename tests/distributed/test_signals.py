"""How a run with real processes ends when it is told to, or when one of its processes is killed."""

import json
import os
import signal
import sys
import time

import pytest

from byzdist.storage import checkpoint
from tests.support.cases import BASE
from tests.support.harness import Job, byzdist, free_port, write_config

ENDLESS = {**BASE, "rounds": 10**7, "clients": {"count": 4, "byzantine": 1}, "transport": {"name": "collective"}}
ENDLESS["method"] = {**BASE["method"], "cohort": 3}


def on(*transports):
    return pytest.mark.parametrize("endless", transports, indirect=True)


def started(job, folder, lines=3, timeout=90):
    """Wait until the run has written some rounds."""
    until = time.monotonic() + timeout
    metrics = folder / "metrics.jsonl"
    while time.monotonic() < until and job.process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= lines:
            return
        time.sleep(0.05)
    job.kill_all()
    raise AssertionError(f"training never started\n{job.output}")


def rounds(folder):
    """Check that metrics.jsonl holds whole lines, one a round; return their number."""
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["round"] for line in lines] == list(range(len(lines)))
    return len(lines)


@pytest.fixture
def endless(request, tmp_path):
    """A run that goes on for ever, on the transport that the test names, and its folder."""
    path = write_config(tmp_path, {**ENDLESS, "transport": {"name": request.param}})
    with byzdist("run", path, "--workers", "2", "--out", tmp_path / "run") as job:
        started(job, tmp_path / "run")
        yield job, tmp_path / "run"


def last_line(job):
    return job.output.strip().splitlines()[-1]


@on("collective", "star")
def test_ctrl_c_ends_the_run_after_the_round_in_progress(endless):
    job, folder = endless
    os.killpg(job.process.pid, signal.SIGINT)
    assert job.wait(30) == 0, job.output
    job.assert_clean()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "stopped" and summary["rounds"] == rounds(folder)
    assert "stopped after" in job.output and "Traceback" not in job.output


@on("star")
def test_sigterm_to_the_launcher_does_the_same(endless):
    job, folder = endless
    job.process.send_signal(signal.SIGTERM)
    assert job.wait(30) == 0, job.output
    job.assert_clean()
    assert json.loads((folder / "summary.json").read_text())["rounds"] == rounds(folder)


@on("collective", "star")
def test_a_signal_to_all_processes_that_the_agent_passes_on_as_well_is_one(endless):
    job, folder = endless
    for process in job.processes():
        process.send_signal(signal.SIGTERM)
    assert job.wait(30) == 0, job.output
    job.assert_clean()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "stopped" and summary["rounds"] == rounds(folder)
    assert max(checkpoint.rounds(folder / "checkpoint")) == summary["rounds"] - 1


@on("collective", "star")
def test_a_killed_server_ends_the_run_with_its_reason(endless):
    job, folder = endless
    job.rank(0).kill()
    assert job.wait(60) == 1, job.output
    assert "rank 0" in last_line(job) and "SIGKILL" in last_line(job)
    job.assert_clean()
    rounds(folder)


@on("collective", "star")
def test_workers_that_are_told_to_end_do_not_repeat_that_the_server_is_gone(endless):
    job, folder = endless
    for rank in (1, 2):
        job.rank(rank).send_signal(signal.SIGTERM)
    time.sleep(0.3)
    job.rank(0).kill()
    assert job.wait(60) == 1, job.output
    assert [line for line in job.output.splitlines() if line.startswith("byzdist:")] == [last_line(job)]
    assert "SIGKILL" in last_line(job)
    job.assert_clean()


@on("collective", "star")
def test_a_killed_launcher_ends_the_run_after_the_round_in_progress(endless):
    job, folder = endless
    job.process.kill()
    job.wait(30)  # until the last process has closed the output
    job.assert_clean()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "stopped" and summary["rounds"] == rounds(folder)


def test_a_killed_worker_ends_a_collective_run_with_its_reason(tmp_path):
    path = write_config(tmp_path, ENDLESS)
    with byzdist("run", path, "--workers", "2", "--out", tmp_path / "run") as job:
        started(job, tmp_path / "run")
        job.rank(2).kill()
        assert job.wait(60) == 1, job.output
        assert "rank 2" in last_line(job)
        job.assert_clean()
        rounds(tmp_path / "run")


def test_a_second_ctrl_c_does_not_wait_for_the_round(tmp_path):
    # The Byzantine client, asked in every round, falls asleep in round 3.
    config = {**ENDLESS, "attack": {"name": "slow", "seconds": 1000.0, "rounds": [3, 10**6]}}
    config |= {"transport": {"name": "collective", "deadline": 900.0}, "method": {**ENDLESS["method"], "cohort": 4}}
    with byzdist("run", write_config(tmp_path, config), "--workers", "2", "--out", tmp_path / "run") as job:
        started(job, tmp_path / "run")
        os.killpg(job.process.pid, signal.SIGINT)
        time.sleep(2.5)
        assert job.process.poll() is None, "the first one waits for the round"
        os.killpg(job.process.pid, signal.SIGINT)
        assert job.wait(20) == 1
        assert last_line(job) == "byzdist: the run was interrupted within a round."
        job.assert_clean()
        rounds(tmp_path / "run")


STALLED = """
import os, time
from byzdist.problem.models.logistic_regression import LogisticRegression

def net(feature_shape, classes):
    if os.environ.get("RANK") == "1":
        time.sleep(1000)
    return LogisticRegression(feature_shape, classes)
"""


@pytest.mark.parametrize("moment", [0.3, 1.2, "rank 1", "all ranks"])
def test_ctrl_c_during_the_start_is_one_line_and_leaves_nobody_behind(tmp_path, moment):
    (tmp_path / "stalled.py").write_text(STALLED)  # so that training cannot begin before the signal comes
    path = write_config(tmp_path, {**ENDLESS, "model": "stalled:net"})
    with byzdist("run", path, "--workers", "2", "--out", tmp_path / "run") as job:
        if isinstance(moment, float):
            time.sleep(moment)
        else:
            for rank in [1] if moment == "rank 1" else [0, 1, 2]:
                job.rank(rank)
        os.killpg(job.process.pid, signal.SIGINT)
        assert job.wait(40) == 1, job.output
        job.assert_clean()
        *before, last = [line for line in job.output.splitlines() if not line.startswith("[server] WARNING ")]
        assert "interrupted" in last and len(before) <= 2, job.output  # signs of life


def test_a_signal_to_torchrun_ends_the_run_as_well(tmp_path):
    path = write_config(tmp_path, ENDLESS)
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "3", "--master-port", str(free_port())]
    words += ["-m", "byzdist", "run", str(path), "--out", str(tmp_path / "run")]
    with Job([sys.executable, *words]) as job:
        started(job, tmp_path / "run")
        job.process.send_signal(signal.SIGINT)
        job.wait(40)
        job.assert_clean()
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["status"] == "stopped" and summary["rounds"] == rounds(tmp_path / "run")
