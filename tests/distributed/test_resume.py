"""Real processes that are killed, stopped and started again."""

import json
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from byzdist.storage.checkpoint import rounds
from tests.support.cases import RAND_K, case
from tests.support.harness import Job, Run, byzdist, comparable, train, write_config

ROUNDS = 1000
SAVING = {"every": 20, "keep": 2}
MARINA = case("shift_back", RAND_K) | {"rounds": ROUNDS, "evaluate": {"every": 200}, "checkpoint": SAVING}
MOMENTUM = {**MARINA, "method": case(name="momentum_sgd")["method"], "attack": {"name": "alie"}}
CONFIGS = {"marina": MARINA, "momentum": MOMENTUM}


def on(transport, config):
    return config | {"transport": {"name": transport}}


def start(folder: Path, *words: str | Path) -> Job:
    return byzdist("run", folder / "config.yaml", "--out", folder / "run", *words)


def wait_for_round(job: Job, run: Path, round_: int, timeout: float = 120) -> None:
    """Wait until there is a checkpoint of a round, or a later one."""
    until = time.monotonic() + timeout
    while max(rounds(run / "checkpoint"), default=-1) < round_:
        assert job.process.poll() is None, job.output
        assert time.monotonic() < until, "no such checkpoint"
        time.sleep(0.002)


def assert_same(run: Path, whole: Run) -> None:
    assert (run / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()
    assert comparable(run) == comparable(whole.folder)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run, whole.folder)]
    for summary in summaries:
        del summary["seconds"], summary["rounds_per_second"]
    assert summaries[0] == summaries[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the uninterrupted run of a configuration, made once."""
    made: dict[str, Run] = {}

    def get(name: str, config: dict) -> Run:
        if name not in made:
            made[name] = train(tmp_path_factory.mktemp("whole"), config)
        return made[name]

    return get


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "transport, name",
    [pytest.param("star", "marina", marks=pytest.mark.soak), ("collective", "momentum"), ("star", "momentum")],
)
def test_a_killed_run_is_resumed_bit_for_bit(transport, name, tmp_path, whole):
    config = on(transport, CONFIGS[name])
    write_config(tmp_path, config)
    chance = random.Random(f"{transport} {name}")
    reached = 0
    for words in (["--workers", "2"], ["--resume"]):
        with start(tmp_path, *words) as job:
            wait_for_round(job, tmp_path / "run", reached + 100)
            time.sleep(0.3 * chance.random())
            job.rank(0).kill()
            assert job.wait(120) == 1, job.output
            job.assert_clean()
        reached = max(rounds(tmp_path / "run" / "checkpoint"))
        assert 0 < reached < ROUNDS
    with start(tmp_path, "--resume") as job:
        assert job.wait(120) == 0, job.output
    assert_same(tmp_path / "run", whole(f"{transport} {name}", config))
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["resumed_after"]) == 2


@pytest.mark.timeout(400)
@pytest.mark.parametrize("transport, number", [("star", signal.SIGTERM), ("collective", signal.SIGINT)])
def test_a_stopped_run_exits_cleanly_and_is_resumed_by_other_workers(transport, number, tmp_path, whole):
    config = on(transport, MOMENTUM)
    write_config(tmp_path, config | {"checkpoint": {"minutes": "none"}})
    with start(tmp_path, "--workers", "2") as job:
        until = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3)
        job.process.send_signal(number)
        assert job.wait(60) == 0, job.output
        job.assert_clean()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert list(rounds(tmp_path / "run" / "checkpoint")) == [summary["rounds"] - 1]
    with start(tmp_path, "--resume", "--workers", "3") as job:
        assert job.wait(120) == 0, job.output
    expected = whole(f"{transport} momentum", config)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (expected.folder / "model.safetensors").read_bytes()
    assert comparable(tmp_path / "run", ("news", "bytes_down")) == comparable(expected.folder, ("news", "bytes_down"))


def killed_again_and_again(tmp_path: Path, config: dict, kills: int, whole: Run) -> None:
    """Let torchrun's agent start the job again each time its server is killed."""
    write_config(tmp_path, config)
    chance = random.Random(kills)
    done = 0
    dead: set[int] = set()
    with start(tmp_path, "--workers", "2", "--max-restarts", str(kills)) as job:
        while done < kills and job.process.poll() is None:
            before = (tmp_path / "run" / "run.json").stat().st_mtime_ns if done else 0
            while (
                not (tmp_path / "run" / "run.json").exists()
                or (tmp_path / "run" / "run.json").stat().st_mtime_ns == before
            ):
                assert job.process.poll() is None, job.output
                time.sleep(0.01)
            wait_for_round(job, tmp_path / "run", 0)
            time.sleep(0.3 * chance.random())
            server = job.rank(0)
            if server.pid not in dead:
                dead.add(server.pid)
                server.kill()
                done += 1
        assert job.wait(600) == 0, job.output
        job.assert_clean()
    assert done == kills, "the run was over before that"
    assert_same(tmp_path / "run", whole)


@pytest.mark.timeout(600)
def test_torchrun_restarts_a_job_and_it_resumes_by_itself(tmp_path, whole):
    config = on("star", MARINA)
    killed_again_and_again(tmp_path, config, 2, whole("star marina", config))


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("transport, name", [("star", "marina"), ("collective", "marina"), ("star", "momentum")])
def test_a_run_survives_a_hundred_kills(transport, name, tmp_path):
    config = on(transport, CONFIGS[name]) | {"rounds": 60_000}
    whole = train(tmp_path / "whole", config, timeout=1200)
    killed_again_and_again(tmp_path, config, 100, whole)


@pytest.mark.timeout(300)
def test_a_folder_in_use_or_of_another_configuration_is_refused_before_anything_starts(tmp_path):
    write_config(tmp_path, on("star", MARINA) | {"rounds": 10**6})
    with start(tmp_path, "--workers", "1") as job:
        wait_for_round(job, tmp_path / "run", 20)
        with start(tmp_path, "--resume") as second:
            assert second.wait(120) == 2
            assert "a run is using" in second.output
        server = job.rank(0)
        job.process.send_signal(signal.SIGTERM)
        assert job.wait(60) == 0, job.output
        assert not psutil.pid_exists(server.pid)
    for words, complaint in (
        (["method.step_size=0.31", "threads=2"], "method.step_size was 0.3 and is 0.31; threads was 1 and is 2"),
        (["rounds=10"], "rounds: the run to resume has come to round"),
    ):
        with start(tmp_path, "--resume", *words) as job:
            assert job.wait(120) == 2
            assert complaint in job.output and job.output.count("\n") == 2  # the first is a sign of life


@pytest.mark.timeout(300)
def test_a_second_signal_ends_the_run_at_once(tmp_path):
    slow = on("star", MARINA) | {"attack": {"name": "slow", "seconds": 20.0}, "rounds": 10**6}
    write_config(tmp_path, slow)
    with start(tmp_path, "--workers", "2") as job:
        server = job.rank(0)
        until = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(2)
        server.send_signal(signal.SIGTERM)
        time.sleep(2.5)
        assert server.is_running() and server.status() != psutil.STATUS_ZOMBIE, "the first lets the round end"
        sent = time.monotonic()
        server.send_signal(signal.SIGTERM)
        server.wait(10)
        assert time.monotonic() - sent < 10
        job.wait(120)
        job.assert_clean()
    assert os.listdir(tmp_path / "run")
