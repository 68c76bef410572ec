"""Standard output cannot end a run: real runs whose terminal closes, whose reader goes away, or that get a hang-up."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from byzdist.host import supervisor
from tests.support.cases import BASE
from tests.support.harness import ROOT, Job, write_config

LONG = {**BASE, "rounds": 400, "clients": {"count": 4, "byzantine": 1}, "evaluate": {"every": 100}}
LONG["method"] = {**BASE["method"], "cohort": 3}
# Rounds that take a while each, so that there are some left when the watcher goes: the attacker is slow.
LONG["attack"] = {"name": "slow", "seconds": 0.01}


def finished(folder):
    summary = json.loads((folder / "summary.json").read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return summary["status"] == "finished" and len(lines) == 401 and (folder / "log.txt").exists()


def begun(folder, timeout=60):
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        with suppress(OSError):
            if (folder / "metrics.jsonl").read_text().count("\n") > 3:
                return
        time.sleep(0.02)
    raise AssertionError("training never began")


@pytest.mark.parametrize("watcher", ["a pipe", "a terminal"])
def test_a_watcher_that_goes_away_in_the_middle_of_a_run(tmp_path, watcher):
    folder = tmp_path / "läuft"
    ours, theirs = os.pipe() if watcher == "a pipe" else pty.openpty()
    command = [sys.executable, "-m", "byzdist", "run", str(write_config(tmp_path, LONG)), "--workers", "2"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "BYZDIST_LOG": "INFO"}
    process = subprocess.Popen([*command, "--out", str(folder)], cwd=ROOT, env=env, stdout=theirs, stderr=theirs)
    try:
        os.close(theirs)
        begun(folder)
        os.close(ours)
        assert process.wait(90) == 0
        assert finished(folder)
    finally:
        process.kill()


@pytest.mark.skipif(
    not hasattr(supervisor, "GONE"), reason="the launcher has no signal of its own for a lost agent yet"
)
def test_a_hang_up_that_is_ignored_as_nohup_has_it_ends_nothing(tmp_path):
    folder = tmp_path / "run"
    words = ["nohup", sys.executable, "-m", "byzdist", "run", str(write_config(tmp_path, LONG)), "--workers", "2"]
    with Job([*words, "--out", str(folder)]) as job:
        begun(folder)
        for process in job.processes():
            process.send_signal(signal.SIGHUP)
        assert job.wait(90) == 0, job.output
        job.assert_clean()
        assert finished(folder)
