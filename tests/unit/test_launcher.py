import json
import signal
import weakref

import pytest
import torch
import yaml
from torch.distributed.elastic.multiprocessing import SignalException

from byzdist import folder, launcher
from byzdist.checkpoint import Checkpoint
from byzdist.errors import ConfigError, RunError
from byzdist.launcher import launch, report_failure
from tests.cases import BASE


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An own working folder, with launched agents recorded and not started."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BYZDIST_SECRET", raising=False)
    for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "BYZDIST_AGENT", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def agent(monkeypatch):
    """What the agent was started with; it does what ``agent["acts"]`` says."""
    seen = {"acts": lambda folder: None}

    def elastic_launch(config, program):
        def run(*command):
            seen.update(config=config, program=program, command=command)
            folder = command[command.index("--out") + 1]
            seen["acts"](launcher.Path(folder))

        return run

    monkeypatch.setattr(launcher, "elastic_launch", elastic_launch)
    return seen


def finish(folder, status="finished"):
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "summary.json").write_text(json.dumps({"status": status}))


def start(workers=None, out=None):
    return launch("config.yaml", ["rounds=3"], workers, out, False, 0)


@pytest.mark.parametrize("workers, processes", [(None, 5), (1, 2), (9, 10)])
def test_the_agent_gets_a_server_and_the_workers(here, agent, workers, processes):
    agent["acts"] = finish
    assert start(workers) == 0
    assert agent["config"].nproc_per_node == processes
    assert agent["command"][:5] == ("-m", "byzdist", "run", "config.yaml", "rounds=3")


def test_there_are_no_more_workers_than_clients(here, agent):
    (here / "config.yaml").write_text(yaml.safe_dump({**BASE, "clients": {"count": 3, "byzantine": 1}}))
    agent["acts"] = finish
    assert launch("config.yaml", ["method.cohort=2"], None, None, False, 0) == 0
    assert agent["config"].nproc_per_node == 4
    with pytest.raises(ConfigError, match="--workers: 4 processes for 3 clients"):
        launch("config.yaml", ["method.cohort=2"], 4, None, False, 0)


def test_a_run_gets_a_folder_of_its_name_and_the_time(here, agent):
    agent["acts"] = finish
    start()
    (folder,) = (here / "runs").iterdir()
    assert folder.name.startswith("case-20")


def test_the_launcher_keeps_neither_data_nor_checkpoint_while_the_processes_run(here, agent, monkeypatch):
    kept = []

    def claim(out, experiment, resume):
        run = folder.claim(out, experiment, resume)
        run.checkpoint = Checkpoint(run.name, 5, {"workers": 3}, {"x": torch.zeros(3)})
        kept.extend(map(weakref.ref, (experiment, experiment.oracle, experiment.dataset, run.checkpoint)))
        return run

    def act(folder):
        assert len(kept) == 4 and not any(reference() for reference in kept)
        finish(folder)

    monkeypatch.setattr(launcher, "claim", claim)
    agent["acts"] = act
    assert start() == 0
    assert agent["config"].nproc_per_node == 4


def test_a_signal_after_a_whole_round_is_no_failure(here, agent):
    def interrupted(folder):
        finish(folder, "stopped")
        raise SignalException("told", signal.SIGINT)

    agent["acts"] = interrupted
    assert start() == 0


@pytest.mark.parametrize("status, reason", [(None, "before its first round"), ("failed", "within a round")])
def test_a_signal_before_or_within_a_round_is_a_failure(here, agent, status, reason):
    def interrupted(folder):
        if status:
            finish(folder, status)
        raise SignalException("told", signal.SIGTERM)

    agent["acts"] = interrupted
    with pytest.raises(RunError, match=reason):
        start()


def test_a_failure_is_left_where_the_agent_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    report_failure("the disk is full")
    assert json.loads((tmp_path / "error.json").read_text())["message"] == "the disk is full"
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    report_failure("nobody listens")
