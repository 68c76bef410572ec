"""Files and folders of a run of real processes: removed, renamed, wanted by two runs, and on hosts that lack files of others."""

import json
import os
import shutil
import sys
import time

import pytest
import torch

from tests.support.cases import BASE
from tests.support.harness import Job, Run, train, write_config

LONG = BASE | {"rounds": 1500, "evaluate": {"every": 500}}
OWN = """
import torch

def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(90, 12, generator=generator), torch.arange(90) % 2
"""


def start(folder, *words, env=None):
    return Job([sys.executable, "-m", "byzdist", *map(str, words)], env=env, cwd=folder)


def wait_for_rounds(job, path, count=20, patience=90):
    until = time.monotonic() + patience
    while time.monotonic() < until and job.process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} rounds\n{job.output}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"), LONG)


def test_a_folder_that_is_renamed_in_mid_run_keeps_all_and_the_run_goes_on_there(tmp_path, uninterrupted):
    config, old, new = write_config(tmp_path, LONG), tmp_path / "run", tmp_path / "new"
    with start(tmp_path, "run", config, "--workers", 2, "--out", old) as job:
        wait_for_rounds(job, old / "metrics.jsonl")
        old.rename(new)
        assert job.wait(60) == 1
        job.assert_clean()
        last = job.output.strip().splitlines()[-1]
        assert "was taken away while the run went on" in last and f"--resume --out {str(new)!r}" in last, job.output
        assert "Traceback" not in job.output
    assert not old.exists()
    with start(tmp_path, "run", config, "--workers", 2, "--out", new, "--resume") as job:
        assert job.wait(120) == 0, job.output
    run = Run(new, job.output)
    assert torch.equal(run.model, uninterrupted.model)
    assert [line["round"] for line in run.metrics] == list(range(1501))


def test_a_folder_that_is_removed_in_mid_run_is_there_at_the_end(tmp_path, uninterrupted):
    config, folder = write_config(tmp_path, LONG), tmp_path / "run"
    with start(tmp_path, "run", config, "--workers", 2, "--out", folder) as job:
        wait_for_rounds(job, folder / "metrics.jsonl")
        shutil.rmtree(folder)
        assert job.wait(120) == 0, job.output
        job.assert_clean()
        assert "was removed. It is made again" in job.output and "Traceback" not in job.output
    run = Run(folder, job.output)
    assert torch.equal(run.model, uninterrupted.model) and run.summary["status"] == "finished"
    assert [line["round"] for line in run.metrics] == list(range(1501))


def test_three_runs_of_one_name_in_one_second_have_a_folder_each(tmp_path):
    config = write_config(tmp_path, BASE | {"rounds": 5})
    jobs = [start(tmp_path, "run", config, "--workers", 1) for _ in range(3)]
    try:
        for job in jobs:
            assert job.wait(150) == 0, job.output
    finally:
        for job in jobs:
            job.__exit__()
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 3
    for folder in folders:
        assert json.loads((folder / "summary.json").read_text())["rounds"] == 6
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 6


HOSTS = {
    "no home, no temporary folder": {"HOME": "/proc/nobody", "TMPDIR": "/nowhere/at/all", "BYZDIST_CACHE": ""},
    "no place for a cache": {"BYZDIST_CACHE": "/proc/cache"},
}


@pytest.mark.parametrize("env", HOSTS.values(), ids=HOSTS)
def test_a_run_does_without_what_a_host_lacks(tmp_path, env):
    config = write_config(tmp_path, BASE | {"rounds": 5})
    env = {"TMPDIR": str(tmp_path), **env}
    with start(tmp_path, "run", config, "--workers", 1, "--out", "run", env=env) as job:
        assert job.wait(120) == 0, job.output
        assert "Traceback" not in job.output
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_nothing_of_a_run_is_left_among_the_temporary_files(tmp_path):
    (tmp_path / "temporary").mkdir()
    config = write_config(tmp_path, BASE | {"rounds": 5, "aggregation": {"rule": "coordinate_median", "compile": True}})
    with start(
        tmp_path, "run", config, "--workers", 2, "--out", "run", env={"TMPDIR": str(tmp_path / "temporary")}
    ) as job:
        assert job.wait(120) == 0, job.output
    left = [path.name for path in (tmp_path / "temporary").iterdir()]
    assert not left, left


def test_own_data_of_tensors_beside_the_run_train_and_evaluate_asks_for_trust(tmp_path):
    (tmp_path / "own_tensors.py").write_text(OWN)
    env = {"PYTHONPATH": str(tmp_path)}
    config = write_config(tmp_path, BASE | {"rounds": 5, "data": "own_tensors:data"})
    with start(tmp_path, "run", config, "--workers", 2, "--out", "run", env=env) as job:
        assert job.wait(120) == 0, job.output
    for words, code, said in (([], 2, "add --trust"), (["--trust"], 0, "model after round 5")):
        with start(tmp_path, "evaluate", "run", *words, env=env) as job:
            assert job.wait(60) == code, job.output
            assert said in job.output.replace("Add", "add")
    assert os.listdir(tmp_path / "run")
