"""Every method gives with real processes on the star what it gives in one process, where it equals its paper's pseudo-code."""

import pytest

from tests.distributed.test_copies import METHODS, config
from tests.distributed.test_estimates import RUNS
from tests.support.harness import Run, byzdist, write_config
from tests.support.inprocess import train_in

TREES = RUNS | {f"{name}, compressed": config(name, "bit_flip") for name in METHODS}


@pytest.mark.soak
@pytest.mark.parametrize("name", TREES)
def test_the_model_is_that_of_a_run_in_one_process(name, tmp_path):
    alone = train_in(TREES[name], tmp_path / "alone")
    write_config(tmp_path, TREES[name] | {"transport": {"name": "star"}})
    with byzdist("run", tmp_path / "config.yaml", "--out", tmp_path / "run", "--workers", "2") as job:
        assert job.wait(120) == 0, job.output
    assert (Run(tmp_path / "run", "").model == alone).all()
