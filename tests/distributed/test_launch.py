"""Runs that are started from odd places, and in odd ways."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.cases import BASE
from tests.support.harness import Job

SHORT = {**BASE, "rounds": 2, "clients": {"count": 4, "byzantine": 1}, "model": {"name": "mine:net"}}
SHORT["method"] = {**BASE["method"], "cohort": 3}
COMMAND = str(Path(sys.executable).with_name("byzdist"))
MINE = """
import torch

def net(feature_shape, classes):
    return torch.nn.Linear(feature_shape[0], classes)
"""


@pytest.fixture
def odd_place(tmp_path: Path) -> Path:
    """A folder with a configuration and its module, a clone called byzdist, and the user's own random.py."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SHORT))
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "byzdist" / "configs").mkdir(parents=True)
    (tmp_path / "random.py").write_text("raise ImportError('the user's own random')\n")
    return tmp_path


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_nothing_where_the_user_stands_changes_what_the_ranks_run(odd_place: Path) -> None:
    with Job([COMMAND, "run", "config.yaml", "--workers", "2", "--out", "run"], cwd=odd_place) as job:
        assert job.wait(90) == 0, job.output
        job.assert_clean()
    assert job.output.splitlines()[:2] == ["reading config.yaml", "starting 2 workers; run"]
    assert summary(odd_place / "run")["status"] == "finished"
    written = yaml.safe_load((odd_place / "run" / "config.yaml").read_text())
    assert written["model"]["name"] == "mine:net"


def test_a_configuration_comes_on_standard_input_and_from_another_folder(odd_place: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = f"cat ../config.yaml | {COMMAND} run - rounds=3 model=logistic_regression --workers 1 --out run"
    with Job(["sh", "-c", script], cwd=elsewhere) as job:
        assert job.wait(90) == 0, job.output
    assert summary(elsewhere / "run")["rounds"] == 4


def test_what_lies_beside_the_configuration_is_found_from_another_folder(odd_place: Path, tmp_path: Path) -> None:
    """Its module and its data; cache, output and what is named on the command line are where the user stands."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder, name in ((odd_place, "train.svm"), (elsewhere, "test.svm")):
        (folder / name).write_text("".join(f"{i % 2} 1:{i} 2:{i % 3}\n" for i in range(40)))
    tree = {**SHORT, "data": {"name": "libsvm", "path": "train.svm"}}
    (odd_place / "config.yaml").write_text(yaml.safe_dump(tree))
    words = ["run", "../config.yaml", "data.test_path=test.svm", "--workers", "2", "--out", "run"]
    with Job([COMMAND, *words], cwd=elsewhere, env={"BYZDIST_CACHE": "cache"}) as job:
        assert job.wait(90) == 0, job.output
    written = yaml.safe_load((elsewhere / "run" / "config.yaml").read_text())["data"]
    assert (written["path"], written["test_path"]) == (str(odd_place / "train.svm"), str(elsewhere / "test.svm"))
    assert list(elsewhere.glob("cache/data/libsvm-*/features.npy"))


def test_the_first_sign_of_life_comes_before_what_takes_seconds(odd_place: Path) -> None:
    slow = odd_place / "slow"
    (slow / "torch").mkdir(parents=True)
    (slow / "torch" / "__init__.py").write_text("print('importing', flush=True)\nimport os\nos._exit(3)\n")
    with Job([COMMAND, "run", "config.yaml"], cwd=odd_place, env={"PYTHONPATH": str(slow)}) as job:
        assert job.wait(60) == 3, job.output
    assert job.output.splitlines() == ["reading config.yaml", "importing"]


PROGRAM = """
import logging, os, signal, sys
from pathlib import Path
import sklearn.datasets  # sets variables of its own when it is imported
from byzdist.errors import ConfigError, RunError
from byzdist.reporting.logs import ADVISERS
from byzdist.runtime.command import RunCommand
from byzdist.runtime.launcher import launch
def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    return dict(os.environ), handlers, [logging.getLogger(name).level for name in ADVISERS]

signal.signal(signal.SIGTERM, lambda *_: None)
before = state()
try:
    code = launch(RunCommand("config.yaml", sys.argv[1:], Path("run")), 2)
except (ConfigError, RunError) as error:
    code = str(error)
assert state() == before
print("code", code)
"""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rounds=2", "code 0"),
        # A module that can be imported in the launcher and the server alone.
        ("model=theirs:net", "code rank [12] failed: model: cannot import 'theirs:net'"),
    ],
)
def test_launch_leaves_its_process_as_it_found_it_and_says_the_first_failure(
    odd_place: Path, override: str, said: str
) -> None:
    (odd_place / "theirs.py").write_text(
        "import os, time\n"
        "if os.environ.get('RANK') in ('1', '2'): raise ImportError('not here')\n"
        "if os.environ.get('RANK') == '0': time.sleep(1)\n" + MINE
    )
    environment = {"PYTHONPATH": str(odd_place), "PYTHONSAFEPATH": "1"}
    (odd_place / "random.py").unlink()  # which this program would take, as any other does
    shutil.rmtree(odd_place / "byzdist")
    with Job([sys.executable, "-c", PROGRAM, override], cwd=odd_place, env=environment) as job:
        assert job.wait(90) == 0, job.output
        job.assert_clean()
    assert re.fullmatch(f"{said}.*", job.output.strip().splitlines()[-1]), job.output


def test_a_rank_that_dies_before_it_can_report_is_named(odd_place: Path) -> None:
    (odd_place / "theirs.py").write_text(
        MINE.replace(
            "    return", "    import os\n    if os.environ.get('RANK') == '2': os._exit(7)\n    return"
        )  # as a library might
    )
    with Job(
        [COMMAND, "run", "config.yaml", "model=theirs:net", "transport=collective", "--workers", "2", "--out", "run"],
        cwd=odd_place,
    ) as job:
        assert job.wait(90) == 1, job.output
        job.assert_clean()
    last = job.output.strip().splitlines()[-1]
    assert last == "byzdist: rank 2 failed: it ended with exit code 7 before it could say why; see its output above", (
        job.output
    )


def test_a_run_under_nohup_outlives_its_terminal(odd_place: Path) -> None:
    words = ["run", "config.yaml", "rounds=400", "--workers", "2", "--out", "run"]
    with Job(["nohup", COMMAND, *words], cwd=odd_place) as job:
        job.rank(2)
        for process in job.processes():
            process.send_signal(signal.SIGHUP)
        assert job.wait(90) == 0, job.output
    assert summary(odd_place / "run")["status"] == "finished" and summary(odd_place / "run")["rounds"] == 401


def test_nothing_is_left_in_the_temporary_folder(odd_place: Path) -> None:
    scratch = odd_place / "scratch"
    scratch.mkdir()
    environment = {"TMPDIR": str(scratch)}
    with Job([COMMAND, "run", "config.yaml", "--workers", "1", "--out", "run"], cwd=odd_place, env=environment) as job:
        assert job.wait(90) == 0, job.output
    assert os.listdir(scratch) == []
