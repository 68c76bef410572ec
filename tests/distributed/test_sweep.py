"""Sweeps with real processes: side by side on `local`, in one set of processes elsewhere; they go on, and keep what failed."""

import csv
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.cases import case
from tests.support.harness import Job, byzdist, comparable, train, write_config

QUICK = {**case(), "rounds": 40, "evaluate": {"every": 10}}


def index(folder: Path) -> dict[str, dict[str, str]]:
    return {row["folder"]: row for row in csv.DictReader((folder / "runs.csv").open())}


def statuses(folder: Path) -> list[str]:
    return [row["status"] for row in index(folder).values()]


def sweep(tmp_path: Path, *words: str | Path, config: dict | None = None, out: str = "study") -> Job:
    return byzdist("sweep", write_config(tmp_path, config or QUICK), *words, "--out", tmp_path / out)


def wait_for(path: Path, job: Job, timeout: float = 60) -> None:
    until = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < until and job.process.poll() is None, job.output
        time.sleep(0.02)


def test_runs_share_the_cores_and_one_that_diverges_is_recorded(tmp_path):
    words = ["method.step_size=[0.3, 300.0]", "seed=0..1", "method.clip=none", "attack=none", "transport=local"]
    with sweep(tmp_path, *words, "--jobs", "2") as job:
        assert job.wait(90) == 1, job.output
        job.assert_clean()
    found = index(tmp_path / "study")
    assert [row["status"] for row in found.values()] == ["finished"] * 2 + ["diverged"] * 2, job.output
    assert "the run has diverged" in found["step_size=300.0,seed=1"]["reason"]
    assert job.output.rstrip().endswith(f"4 runs: 2 finished, 2 diverged; {tmp_path / 'study'}")
    alone = {**QUICK, "seed": 1, "attack": "none", "method": {**QUICK["method"], "clip": "none"}}
    run = train(tmp_path / "alone", alone)
    one = tmp_path / "study" / "step_size=0.3,seed=1"
    drop = ("news", "bytes_up", "bytes_down")  # those of real links
    assert comparable(one, drop) == comparable(run.folder, drop)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob("metrics.jsonl")}
    with sweep(tmp_path, *words) as job:
        assert job.wait(60) == 1, job.output
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what has ended is not run again"
    with sweep(tmp_path, *words, "rounds=50") as job:
        assert job.wait(60) == 2, job.output
    assert "holds a run of another configuration: rounds was 40 and is 50" in job.output


def test_an_interrupted_sweep_goes_on_to_the_same_bits(tmp_path):
    words = ["seed=0..2", "transport=local", "rounds=800", "evaluate.every=200"]
    with sweep(tmp_path, *words, "--jobs", "1", out="whole") as job:
        assert job.wait(120) == 0, job.output
    with sweep(tmp_path, *words, "--jobs", "1") as job:
        wait_for(tmp_path / "study" / "seed=1" / "metrics.jsonl", job)
        job.process.send_signal(signal.SIGINT)
        assert job.wait(60) == 1, job.output
        job.assert_clean()
    assert statuses(tmp_path / "study") == ["finished", "unfinished", "missing"]
    assert "the same command goes on where this one has ended" in job.output and "Traceback" not in job.output
    with sweep(tmp_path, *words, "--jobs", "1") as job:
        assert job.wait(120) == 0, job.output
    assert statuses(tmp_path / "study") == ["finished"] * 3
    for seed in range(3):
        assert comparable(tmp_path / "study" / f"seed={seed}") == comparable(tmp_path / "whole" / f"seed={seed}")


def test_star_and_collective_train_run_after_run_in_one_set_of_processes(tmp_path):
    words = ["transport.name=[star, collective, local]", "seed=0..3", "--workers", "2", "--jobs", "1"]
    servers = set()
    with sweep(tmp_path, *words) as job:
        while job.process.poll() is None:
            for process in job.processes():
                try:
                    if process.name() == "byzdist-server" and "byzdist-server" != process.parent().name():
                        servers.add(process.pid)
                except (psutil.Error, AttributeError):
                    pass
            time.sleep(0.05)
        assert job.wait(1) == 0, job.output
        job.assert_clean()
    assert len(servers) == 2, "one for each transport"
    drop = ("news", "bytes_up", "bytes_down")
    for seed in range(4):
        star, collective, local = (
            comparable(tmp_path / "study" / f"name={name},seed={seed}", drop)
            for name in ("star", "collective", "local")
        )
        assert star == collective == local and len(star) == 41


@pytest.mark.parametrize("transport", ["star", "collective"])
def test_a_run_whose_server_dies_has_failed_and_the_others_go_on(tmp_path, transport):
    words = ["seed=0..2", f"transport={transport}", "rounds=1000", "evaluate.every=500", "--workers", "2"]
    with sweep(tmp_path, *words) as job:
        wait_for(tmp_path / "study" / "seed=0" / "metrics.jsonl", job)
        job.rank(0).kill()
        wait_for(tmp_path / "study" / "seed=1" / "metrics.jsonl", job)
        job.process.send_signal(signal.SIGINT)
        assert job.wait(60) == 1, job.output
        job.assert_clean()
    found = index(tmp_path / "study")
    assert [row["status"] for row in found.values()] == ["failed", "unfinished", "missing"], job.output
    assert "was ended by SIGKILL" in found["seed=0"]["reason"]
    with sweep(tmp_path, *words) as job:
        wait_for(tmp_path / "study" / "seed=2" / "metrics.jsonl", job)
        assert statuses(tmp_path / "study")[:2] == ["finished", "finished"]


def test_a_worker_that_is_killed_joins_the_run_in_progress(tmp_path):
    words = ["rounds=[40, 4000]", "transport=star", "evaluate.every=1000", "--workers", "2"]
    with sweep(tmp_path, *words) as job:
        wait_for(tmp_path / "study" / "rounds=4000" / "metrics.jsonl", job)
        job.rank(2).kill()
        assert job.wait(240) == 0, job.output
        job.assert_clean()
    assert statuses(tmp_path / "study") == ["finished"] * 2
    lines = comparable(tmp_path / "study" / "rounds=4000", drop=())
    assert any("worker 2" in text for line in lines for text in line.get("news", []))
    assert lines[-1]["missing"] == {} and len(lines) == 4001
