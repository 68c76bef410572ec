"""Ranks whose data differ do not run together: the rank and the difference are the last line."""

import re

from tests.cases import BASE
from tests.harness import byzdist, write_config

# What data sets are prepared from is the same in all processes; so that rank 2 has its own, it has a cache of its own.
OTHER_DATA = """
import os
import numpy as np
from byzdist.data import RawData

RANK = os.environ.get("RANK", "0")
os.environ["BYZDIST_CACHE"] = os.environ["TEST_CACHE"] + RANK


def make():
    generator = np.random.default_rng(0)
    return RawData(generator.standard_normal((90, 9 if RANK == "2" else 10)), np.arange(90) % 2)
"""


def test_a_worker_with_other_data_is_named_with_the_difference(tmp_path):
    (tmp_path / "other_data.py").write_text(OTHER_DATA)
    path = write_config(tmp_path, {**BASE, "data": {"name": "other_data:make"}})
    env = {"PYTHONPATH": str(tmp_path), "TEST_CACHE": str(tmp_path / "cache")}
    with byzdist("run", path, "--workers", "2", "--out", tmp_path / "run", env=env) as job:
        assert job.wait(60) != 0, job.output
        job.assert_clean()
    last = job.output.strip().splitlines()[-1]
    assert re.search(r"rank 2 failed: worker 2: its data has 9 features, the server's 10; give every rank", last), (
        job.output
    )
    assert "Traceback" not in job.output
