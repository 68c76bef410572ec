"""Methods in which clients send full estimates against their papers' pseudo-code, over 200 rounds, a kill and a resumption."""

import time
from typing import Any

import numpy as np
import pytest
import torch

from byzdist.config.reading import parse
from byzdist.storage.checkpoint import rounds
from tests.support.cases import RAND_K, SHARED, case
from tests.support.harness import Run, byzdist, write_config
from tests.support.inprocess import train_in
from tests.support.problem import load_arrays
from tests.support.reference_estimates import Estimates
from tests.support.runs import drop_after

CLOSE = 1e-12
ADAMW = {"name": "adamw", "step_size": 0.02, "beta2": 0.99, "weight_decay": 0.1}
HEAVY = {"name": "momentum", "step_size": 0.05}


def estimates(attack: str, compression: dict[str, Any] | None = None, **method: Any) -> dict[str, Any]:
    """Return a configuration on data of each client's own; attackers are a minority of the 9, but not of every cohort."""
    tree = case(attack, compression, p=None, clip_growth="none", **method)
    tree["clients"], tree["data"] = {"count": 9, "byzantine": 3}, {**tree["data"], "split": "iid"}
    tree["aggregation"] = {**tree["aggregation"], "pre": ["nnm"] if method["name"] == "byz_nsgdm" else []}
    return tree | {"rounds": 200}


RUNS = {
    "demoa": estimates("bit_flip", name="demoa", alpha=1.2, cohort=3, clip="none"),
    "demoa, rand_k, cold": estimates("alie", RAND_K, name="demoa", alpha=0.6, cohort=4, g0="zero", clip="none"),
    "demoa under (10), rand_k": estimates("shift_back", RAND_K, name="demoa", alpha=1.0, cohort=4, clip=2.0),
    "rosdhb": estimates("ipm", SHARED, name="rosdhb", momentum=0.8, cohort=None, clip="none"),
    "rosdhb, sampled, under (10)": estimates("mimic", SHARED, name="rosdhb", momentum=0.8, clip=1.0, clip_reference="gradient"),
    "byz_nsgdm": estimates("alie", name="byz_nsgdm", momentum=0.7, cohort=None, clip="none", step_size={"name": "power", "value": 0.3}),
    "byz_nsgdm, sampled, under (10), rand_k": estimates("bit_flip", RAND_K, name="byz_nsgdm", momentum=0.7, step_size=0.05),
    "fedavg": estimates("none", name="local_steps", steps=3, inner={"name": "sgd", "step_size": 0.1}, step_size=1.0, clip="none"),
    "diloco, remembered, rand_k": estimates("alie", RAND_K, name="local_steps", steps=2, inner=ADAMW, remember_inner=True,
                                            server_optimizer="nesterov", step_size=0.07, clip="none"),
    "diloco under (10)": estimates("shift_back", name="local_steps", steps=2, inner=ADAMW, server_optimizer="nesterov", step_size=0.07),
    "local momentum under (10)": estimates("bit_flip", SHARED, name="local_steps", steps=2, inner=HEAVY, server_optimizer="adam",
                                           step_size=0.02, clip_reference="gradient"),
}  # fmt: skip
KILLED = [pytest.param("demoa, rand_k, cold", marks=pytest.mark.soak), "diloco, remembered, rand_k"]


def assert_is_the_paper_s(tree, model):
    dataset = load_arrays(parse(tree).data.without("split"))
    expected = Estimates(tree, np.asarray(dataset.features), np.asarray(dataset.labels)).run()
    assert np.linalg.norm(expected) > 0.1
    assert np.linalg.norm(model.numpy() - expected) < CLOSE * np.linalg.norm(expected)


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_equals_the_paper_s_pseudo_code(name, tmp_path):
    tree = RUNS[name] | {"checkpoint": {"every": 40, "keep": 100}}
    whole = train_in(tree, tmp_path)
    assert_is_the_paper_s(tree, whole)
    assert drop_after(tmp_path, 190) > 0
    assert torch.equal(train_in(tree, tmp_path, workers=3, resume=True), whole)


@pytest.mark.parametrize("name", KILLED)
def test_a_star_whose_server_is_killed_equals_it_too(name, tmp_path):
    tree = RUNS[name] | {"rounds": 700, "checkpoint": {"every": 20}, "transport": {"name": "star"}}
    write_config(tmp_path, tree)
    run = tmp_path / "run"
    with byzdist("run", tmp_path / "config.yaml", "--out", run, "--workers", "2") as job:
        while max(rounds(run / "checkpoint"), default=-1) < 100:
            assert job.process.poll() is None, job.output
            time.sleep(0.002)
        job.rank(0).kill()
        assert job.wait(60) == 1, job.output
    assert 100 <= max(rounds(run / "checkpoint")) < 700
    with byzdist("run", tmp_path / "config.yaml", "--out", run, "--resume") as job:
        assert job.wait(60) == 0, job.output
    assert_is_the_paper_s(tree, Run(run, "").model)
