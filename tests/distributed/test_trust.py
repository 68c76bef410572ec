"""What no process of a run does: listen to the network, unpickle anything, or have secrets that it does not need."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.cases import BASE
from tests.support.harness import Job, byzdist, free_port, write_config

ENDLESS = {**BASE, "rounds": 10**7, "clients": {"count": 4, "byzantine": 1}, "evaluate": {"every": 10**6}}
ENDLESS["method"] = {**BASE["method"], "cohort": 3}
HOOK = """
import os, pickle, sys, traceback, _pickle
def note(what):
    with open(os.environ["UNPICKLED"], "a") as file:
        file.write(f"{what} in {sys.argv}\\n{''.join(traceback.format_stack())}\\n")
def hooked(original):
    def loads(*arguments, **keywords):
        note("loads")
        return original(*arguments, **keywords)
    return loads
for module in (pickle, _pickle):
    for name in ("load", "loads"):
        setattr(module, name, hooked(getattr(module, name)))
class Unpickler(_pickle.Unpickler):
    def __init__(self, *arguments, **keywords):
        note("Unpickler")
        super().__init__(*arguments, **keywords)
pickle.Unpickler = _pickle.Unpickler = Unpickler
class Slow(pickle._Unpickler):
    def __init__(self, *arguments, **keywords):
        note("_Unpickler")
        super().__init__(*arguments, **keywords)
pickle._Unpickler = Slow
def note_process():
    with open(os.environ["UNPICKLED"] + ".hooked", "a") as file:
        file.write(f"{os.getpid()}\\n")

note_process()
os.register_at_fork(after_in_child=note_process)
"""


@pytest.fixture
def hooked(tmp_path: Path) -> dict[str, str]:
    """The environment in which every process notes that it unpickles something."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    return {"PYTHONPATH": str(tmp_path / "hook"), "UNPICKLED": str(tmp_path / "unpickled")}


def await_rounds(job: Job, folder: Path, lines: int = 5) -> None:
    metrics, until = folder / "metrics.jsonl", time.monotonic() + 90
    while not metrics.exists() or metrics.read_text().count("\n") < lines:
        assert job.process.poll() is None and time.monotonic() < until, job.output
        time.sleep(0.05)


def listening(process: psutil.Process) -> set[str]:
    with suppress(psutil.Error):
        return {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return set()


@pytest.mark.parametrize("transport", ["star", "collective"])
def test_a_run_on_one_machine_listens_on_loopback_alone_and_unpickles_nothing(
    tmp_path: Path, hooked: dict[str, str], transport: str
) -> None:
    config = {**ENDLESS, "transport": {"name": transport}, "attack": {"name": "alie"}}  # one that uses the store, too
    path = write_config(tmp_path, config)
    heard, seen = set[str](), set[int]()
    with byzdist("run", path, "--workers", "2", "--out", tmp_path / "run", env=hooked) as job:
        until = time.monotonic() + 90
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.exists() or metrics.read_text().count("\n") < 20:  # from the first moment on
            assert job.process.poll() is None and time.monotonic() < until, job.output
            for process in job.processes():
                seen.add(process.pid)
                heard |= listening(process)
        job.process.terminate()
        assert job.wait(60) == 0, job.output
    assert len(seen) >= 4
    assert heard == {"127.0.0.1"}
    with_hook = (tmp_path / "unpickled.hooked").read_text().split()
    assert len(with_hook) >= 4, "launcher, server and workers at least"
    assert not (tmp_path / "unpickled").exists(), (tmp_path / "unpickled").read_text()


def test_the_hook_sees_what_is_unpickled(tmp_path: Path, hooked: dict[str, str]) -> None:
    for program in (
        "import pickle; pickle.loads(pickle.dumps(1))",
        "import io, pickle; pickle.Unpickler(io.BytesIO(pickle.dumps(1))).load()",
        "import io, torch; f = io.BytesIO(); torch.save(1, f); f.seek(0); torch.load(f, weights_only=False)",
    ):
        subprocess.run([sys.executable, "-c", program], env={**os.environ, **hooked}, check=True, timeout=60)
        (tmp_path / "unpickled").unlink()


def test_a_worker_gets_its_own_key_and_no_secret(tmp_path: Path) -> None:
    path = write_config(tmp_path, ENDLESS)
    with byzdist("run", path, "--workers", "2", "--out", tmp_path / "run", env={"BYZDIST_SECRET": "s" * 32}) as job:
        await_rounds(job, tmp_path / "run")
        held = dict[str, set[tuple[str, str]]]()
        for process in job.processes():
            with suppress(psutil.Error):
                environment = process.environ()
                mine = {(k, v) for k, v in environment.items() if re.match("BYZDIST_(SECRET|KEY)", k)}
                held.setdefault(environment.get("RANK", "launcher"), set()).update(mine)
        job.process.terminate()
        assert job.wait(60) == 0, job.output
    assert held["0"] == {("BYZDIST_SECRET", "s" * 32)}
    assert [name for name, _ in held["1"] | held["2"]] == ["BYZDIST_KEY", "BYZDIST_KEY"]
    assert held["1"] != held["2"]


@pytest.mark.parametrize("is_static", [False, True])
def test_a_torchrun_that_can_be_made_to_run_code_is_named(tmp_path: Path, is_static: bool) -> None:
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())] if is_static else []
    words += [
        "-m",
        "byzdist",
        "run",
        str(write_config(tmp_path, {**ENDLESS, "rounds": 3})),
        "--out",
        str(tmp_path / "run"),
    ]
    with Job([sys.executable, *words]) as job:
        assert job.wait(120) == 0, job.output
    assert job.output.count("unpickles what it finds in its store") == (0 if is_static else 1), job.output
