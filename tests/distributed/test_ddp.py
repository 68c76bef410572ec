"""The hook for torch's DistributedDataParallel, on four real ranks, one of them hostile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import byzdist
from byzdist.errors import ConfigError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    command = [sys.executable, "-m", "tests.support.ddp_ranks", str(folder / "store")]
    ranks = [
        subprocess.Popen([*command, str(rank), "4", str(folder)], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE)
        for rank in range(4)
    ]
    try:
        complaints = [rank.communicate(timeout=120)[1].decode()[-2000:] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * 4, complaints
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(4)]


def test_each_rank_gets_what_the_rule_makes_of_all_gradients(told):
    cases = [name for name, found in told[0].items() if isinstance(found, list)]
    assert len(cases) == 11
    for rank in told:
        assert {name: rank[name] for name in cases} == dict.fromkeys(cases, [True, True])


def test_what_cannot_protect_is_refused(told):
    assert "ddp.f: 2 of 4 ranks; these steps and this rule tolerate 1" in told[0]["two of four"]
    assert "ddp.f: 1 of 4 ranks; these steps and this rule tolerate 0" in told[0]["bucketing of four"]
    assert "ddp.f: 1 of 2 ranks; these steps and this rule tolerate 0" in told[0]["one of a group of two"]


def test_mistakes_are_named_before_anything_runs():
    for options, message in [
        ({"rule": "medean", "f": 1}, "ddp.rule: unknown rule 'medean'. Did you mean"),
        ({"rule": "mean", "f": 0.5}, "ddp.f: 0.5; a whole number"),
        ({"rule": "mean", "pre": ["nm"], "f": 0}, r"ddp.pre\[0\]"),
        ({"rule": "tests.unit.aggregation.test_oneshot:remembering", "f": 0}, "ddp.rule: .*remembers"),
    ]:
        with pytest.raises(ConfigError, match=message):
            byzdist.ddp.robust_hook(**options)


def test_the_example_trains_where_plain_ddp_does_not():
    said = {}
    for rule in ("trimmed_mean", "average"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
        run = subprocess.run(
            [*command, "docs/examples/ddp.py", rule],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        said[rule] = run.stdout.split()
        assert run.stdout.strip().endswith("models equal on all ranks")
    assert float(said["trimmed_mean"][2].strip(",")) > 0.85 and float(said["average"][2].strip(",")) < 0.3, said
