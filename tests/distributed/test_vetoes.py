"""No client has a veto, with real processes: one worker that never saves, and one that is always a little too late."""

import sys
from pathlib import Path

from byzdist.storage.checkpoint import read_checkpoint, rounds
from tests.support.cases import BASE, case
from tests.support.harness import Job, Run, write_config

FAR = """
import os
import torch
from byzdist.storage.checkpoint import Checkpoint

def net(feature_shape, classes):
    if os.environ.get("RANK") == "2":
        def write(*_):
            raise OSError(28, "No space left on device")
        Checkpoint.write = write
    return torch.nn.Linear(feature_shape[0], classes)
"""


def run(folder: Path, config: dict, workers: int) -> Run:
    with Job(
        [sys.executable, "-m", "byzdist", "run", str(write_config(folder, config)), "--workers", str(workers)]
        + ["--out", str(folder / "run")],
        env={"PYTHONPATH": str(folder)},
    ) as job:
        assert job.wait(120) == 0, job.output
        job.assert_clean()
    return Run(folder / "run", job.output)


def test_a_worker_that_fails_to_save_keeps_no_run_from_its_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "far.py").write_text(FAR)
    config = {**case("none", name="momentum_sgd"), "model": "far:net", "checkpoint": {"every": 10, "keep": 9}}
    ended = run(tmp_path, {**config, "rounds": 50}, workers=3)
    kept = rounds(ended.folder / "checkpoint")
    assert len(kept) >= 2 and max(kept) == 50
    assert all(read_checkpoint(path).facts["missing"] == [2] for path in kept.values())
    assert "worker 2 did not save what its clients remember" in ended.output


def test_replies_that_are_a_little_too_late_cost_a_run_no_more_than_their_share(tmp_path: Path) -> None:
    deadline, share = 0.5, 0.05
    config = {
        **BASE,
        "rounds": 600,
        "clients": {"count": 4, "byzantine": 1},
        "attack": {"name": "slow", "seconds": deadline + 0.02},
        "transport": {"deadline": deadline, "late_share": share, "offences": 10**6},
        "evaluate": {"every": 300},
    }
    config["method"] = {**BASE["method"], "cohort": 3}
    ended = run(tmp_path, config, workers=4)
    waits = [line["missing"].get("3") for line in ended.metrics].count("no reply by the deadline")
    assert waits >= 3, "it was late"
    vain = waits * deadline
    assert vain <= 3 * deadline + share * ended.summary["seconds"] + deadline
