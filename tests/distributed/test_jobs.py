"""Regression, a language model, dropout and frozen parts: with real processes and a Byzantine minority, training is as good as without.

Each job gives the same bits in one process, on the star, and on the collective transport with its server killed on the way.
"""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from byzdist.config.reading import parse
from byzdist.runtime.experiment import prepare
from byzdist.storage.export import load_model
from tests.support.harness import Job, byzdist, train, write_config
from tests.support.inprocess import train as in_process
from tests.support.inprocess import train_in
from tests.support.jobs import JOBS, alone

NEAR = 1.02  # times the loss of the same job without attackers and without distribution


@pytest.fixture(scope="module", params=JOBS)
def job(request, tmp_path_factory) -> tuple[dict[str, Any], torch.Tensor]:
    """A job, and the model that it ends with in one process."""
    torch.set_num_threads(1)  # as every process of a run does; sums of two threads have other last bits
    folder = tmp_path_factory.mktemp("job")
    tree = JOBS[request.param](folder)
    return tree, train_in({**tree, "transport": {"name": "local"}}, folder / "local", workers=1)


def test_a_job_with_attackers_ends_as_good_as_alone_and_with_the_same_bits(job, tmp_path):
    tree, expected = job
    run = train(tmp_path, {**tree, "transport": {"name": "star"}})
    assert torch.equal(flat(run.folder, tree), expected)
    assert run.summary["loss"] <= NEAR * alone(tree, tmp_path / "cache")


def test_a_killed_job_is_resumed_to_the_same_bits(job, tmp_path):
    tree, expected = job
    write_config(tmp_path, {**tree, "transport": {"name": "collective"}})
    words = [tmp_path / "config.yaml", "--workers", "2", "--out", tmp_path / "run"]
    with byzdist("run", *words) as first:
        wait_for(tmp_path / "run" / "metrics.jsonl", lines=15, job=first)
        first.rank(0).kill()
        assert first.wait(60) == 1, first.output
        first.assert_clean()
    reached = (tmp_path / "run" / "metrics.jsonl").read_text().count("\n")
    assert 15 <= reached < tree["rounds"], "it was to be killed on the way"
    with byzdist("run", *words, "--resume") as second:
        assert second.wait(120) == 0, second.output
        second.assert_clean()
    assert torch.equal(flat(tmp_path / "run", tree), expected)


def test_adapters_of_a_frozen_transformer_are_small_messages(tmp_path):
    """Of more than 10 million parameters about one in a hundred is trained; messages are so much smaller, both ways."""
    tree = {**JOBS["language model"](tmp_path), "rounds": 1, "dtype": "float32", "transport": {"name": "local"}}
    tree |= {"clients": {"count": 2}, "attack": {"name": "none"}, "aggregation": {"rule": "mean"}}
    tree["method"] = {"name": "sgd", "step_size": 0.1, "cohort": 2, "full_cohort": 2, "batch_size": 1}
    tree["evaluate"] = {"every": 10, "samples": 1}
    runs = {}
    for adapters in (True, False):
        model = {"name": "tests.support.jobs:adapted", "adapters": adapters}
        (tmp_path / str(adapters)).mkdir()
        runs[adapters] = in_process({**tree, "model": model}, tmp_path / str(adapters), workers=1)
    few, all_ = (runs[adapters].experiment.oracle.dimension for adapters in (True, False))
    assert all_ > 10**7 and 0.008 < few / all_ < 0.012
    for way in ("bytes_up", "bytes_down"):
        small, large = (runs[adapters].metrics[1][way] for adapters in (True, False))
        assert small / large == pytest.approx(few / all_, rel=0.01)


def flat(folder: Path, tree: dict[str, Any]) -> torch.Tensor:
    """Return x, the trained parameters of a run's final model in the module's order."""
    experiment = prepare(parse({**tree, "transport": {"name": "local"}}), torch.device("cpu"))
    return load_model(experiment.oracle.loss.model, folder)[1]


def wait_for(metrics: Path, lines: int, job: Job, timeout: float = 90) -> None:
    until = time.monotonic() + timeout
    while time.monotonic() < until and job.process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= lines:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {lines} rounds\n{job.output}")
