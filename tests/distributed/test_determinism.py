"""However the processes are started, the same configuration and seed give the same run, bit for bit."""

import sys
from contextlib import ExitStack

import pytest
import torch

from tests.support.cases import CASES
from tests.support.harness import Job, Run, comparable, free_port, train, write_config
from tests.support.inprocess import train_in

CONFIG = {**CASES["everything at once"], "transport": {"name": "star"}}


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The run as `byzdist run` starts it."""
    return train(tmp_path_factory.mktemp("launched"), CONFIG, workers=2)


def assert_same(run, launched):
    assert torch.equal(run.model, launched.model)
    assert comparable(run.folder) == comparable(launched.folder)
    for key in ("loss", "gap", "accuracy", "bytes_up", "bytes_down", "missing", "rounds"):
        assert run.summary[key] == launched.summary[key]


def by_hand(path, folder, overrides=((), (), ())):
    """Return the jobs of a server and two workers that no agent watches over."""
    job = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "BYZDIST_SECRET": "s" * 32}
    words = [sys.executable, "-m", "byzdist", "run", str(path), "--out", str(folder)]
    return [Job([*words, *overrides[rank]], env={**job, "RANK": str(rank)}) for rank in range(3)]


def test_torchrun_starts_the_same_run(tmp_path, launched):
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "3", "--master-port", str(free_port())]
    words = ["-m", "byzdist", "run", str(write_config(tmp_path, CONFIG)), "--out", str(tmp_path / "run")]
    with Job([sys.executable, *torchrun, *words], env={"BYZDIST_SECRET": "s" * 32}) as job:
        assert job.wait(120) == 0, job.output
        job.assert_clean()
    assert_same(Run(tmp_path / "run", job.output), launched)


@pytest.mark.parametrize("transport", ["collective", "star"])
def test_processes_started_by_hand_need_no_agent(tmp_path, launched, transport):
    config = {**CONFIG, "transport": {"name": transport}}
    with ExitStack() as stack:
        jobs = [stack.enter_context(job) for job in by_hand(write_config(tmp_path, config), tmp_path / "run")]
        for job in jobs:
            assert job.wait(120) == 0, [job.output for job in jobs]
            job.assert_clean()
    run = Run(tmp_path / "run", jobs[0].output)
    assert torch.equal(run.model, launched.model)
    if transport == "star":
        assert_same(run, launched)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_in_one_process_is_the_same(tmp_path, launched, workers):
    x = train_in(CONFIG, tmp_path / "run", workers)
    assert torch.equal(x, launched.model)
    drop = ("bytes_down", "news")  # what a worker holds already is not counted there
    assert comparable(tmp_path / "run", drop) == comparable(launched.folder, drop)


def test_the_configuration_that_a_run_leaves_runs_again_to_the_same_end(tmp_path, launched):
    path = launched.folder / "config.yaml"
    with Job([sys.executable, "-m", "byzdist", "run", str(path), "--workers=2", f"--out={tmp_path / 'again'}"]) as job:
        assert job.wait(120) == 0, job.output
    assert_same(Run(tmp_path / "again", job.output), launched)
    assert (tmp_path / "again" / "config.yaml").read_text() == path.read_text()


@pytest.mark.parametrize("transport", ["collective", "star"])
def test_ranks_with_different_configurations_do_not_start(tmp_path, transport):
    config = {**CONFIG, "transport": {"name": transport, "deadline": 5.0, "join_timeout": 5.0}}
    path, folder = write_config(tmp_path, config), tmp_path / "run"
    with ExitStack() as stack:
        jobs = [stack.enter_context(job) for job in by_hand(path, folder, ((), (), ("method.clip=0.3",)))]
        assert jobs[2].wait(120) == 2
        assert "the configuration of rank 2 is not the server's" in jobs[2].output
        for job in jobs:
            job.kill_all()
