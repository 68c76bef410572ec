import json
import os
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from byzdist.config.reading import dump, load
from byzdist.errors import ConfigError, RunError
from byzdist.runtime import identity, launcher
from byzdist.runtime.command import RunCommand
from byzdist.runtime.job import Failure
from byzdist.runtime.launcher import launch
from byzdist.storage.checkpoint import Checkpoint
from tests.support.cases import BASE


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An own working folder."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BYZDIST_SECRET", raising=False)
    return tmp_path


@pytest.fixture
def job(monkeypatch):
    """What the job was started with, again and again; each time it does what ``job["acts"]`` says, and nothing is started."""
    seen: dict[str, Any] = {"acts": lambda folder: None, "attempts": []}

    class Job:
        def __init__(self, command, configuration, workers, secret, patience, signals, idle):
            seen.update(command=command, configuration=configuration, workers=workers, secret=secret)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, attempt):
            seen["attempts"].append(attempt)
            return seen["acts"](Path(seen["command"][seen["command"].index("--out") + 1]))

    monkeypatch.setattr(launcher, "Job", Job)
    return seen


def finish(folder, status="finished"):
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "summary.json").write_text(json.dumps({"status": status}))


def start(workers=None, out=None, max_restarts=0):
    return launch(RunCommand("config.yaml", ["rounds=3"], out), workers, max_restarts)


@pytest.mark.parametrize("wanted, workers", [(None, 4), (1, 1), (9, 9)])
def test_the_job_gets_its_workers_and_what_was_resolved(here, job, wanted, workers):
    job["acts"] = finish
    assert start(wanted) == 0
    assert job["workers"] == workers
    assert job["configuration"] == dump(load("config.yaml", ["rounds=3"]))
    assert job["command"][3:6] == ["run", "-", "--out"]
    assert len(job["secret"]) == 64


def test_there_are_no_more_workers_than_clients(here, job):
    (here / "config.yaml").write_text(yaml.safe_dump({**BASE, "clients": {"count": 3, "byzantine": 1}}))
    job["acts"] = finish
    assert launch(RunCommand("config.yaml", ["method.cohort=2"])) == 0
    assert job["workers"] == 3
    with pytest.raises(ConfigError, match="--workers: 4 processes for 3 clients"):
        launch(RunCommand("config.yaml", ["method.cohort=2"]), 4)


def test_a_run_gets_a_folder_of_its_name_and_the_time(here, job):
    job["acts"] = finish
    start()
    (folder,) = (here / "runs").iterdir()
    assert folder.name.startswith("case-20")


def test_the_launcher_keeps_neither_data_nor_checkpoint_while_the_processes_run(here, job, monkeypatch):
    kept = []

    def claim(out, experiment, resume):
        run = identity.claim(out, experiment, resume)
        run.checkpoint = Checkpoint(run.name, 5, {"workers": 3}, {"x": torch.zeros(3)})
        kept.extend(map(weakref.ref, (experiment, experiment.oracle, experiment.dataset, run.checkpoint)))
        return run

    def act(folder):
        assert len(kept) == 4 and not any(reference() for reference in kept)
        finish(folder)

    monkeypatch.setattr(launcher, "claim", claim)
    job["acts"] = act
    assert start() == 0
    assert job["workers"] == 3


def test_a_signal_after_a_whole_round_is_no_failure(here, job):
    job["acts"] = lambda folder: finish(folder, "stopped")
    assert start() == 0


@pytest.mark.parametrize("status, reason", [(None, "before its first round"), ("failed", "within a round")])
def test_a_signal_before_or_within_a_round_is_a_failure(here, job, status, reason):
    job["acts"] = lambda folder: finish(folder, status) if status else None
    with pytest.raises(RunError, match=reason):
        start()


@pytest.mark.parametrize("is_final, attempts", [(False, [0, 1, 2]), (True, [0])])
def test_a_job_that_fails_is_started_again_unless_it_would_only_fail_again(here, job, is_final, attempts):
    job["acts"] = lambda folder: Failure("rank 1 failed: it is tired", is_final)
    with pytest.raises(ConfigError if is_final else RunError, match="rank 1 failed: it is tired"):
        start(max_restarts=2)
    assert job["attempts"] == attempts


def test_launch_leaves_environment_and_signals_as_it_found_them(here, monkeypatch):
    monkeypatch.setattr(launcher, "own_command", lambda words: ["true"])
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = dict(os.environ), [signal.getsignal(number) for number in numbers]
    with pytest.raises(RunError, match="before its first round"):  # its processes do nothing at all
        start(2)
    assert (dict(os.environ), [signal.getsignal(number) for number in numbers]) == before
