"""`byzdist.train` with real processes, forks of a script or ranks under torchrun: the same bits, and no process remains."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.harness import Job, free_port

COMMON = """
import json, os, signal, sys, threading, time
import numpy as np, torch
import byzdist
from byzdist.errors import RunError

drawn = np.random.default_rng(0)
X = drawn.standard_normal((200, 5)).astype("float32")
Y = (X @ np.arange(-2, 3) > 0).astype(int)
torch.randn(900, 900) @ torch.randn(900, 900)  # with as many threads as torch likes: OpenMP's are not in a fork
threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()  # as a notebook's kernel has some
os.environ.pop("OMP_NUM_THREADS", None)
signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))

def net():
    torch.manual_seed(0)
    return torch.nn.Linear(5, 2)

def state():
    handlers = [signal.getsignal(n) for n in (1, 2, 12, 15)]
    random = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    named = open("/proc/self/comm").read(), torch.distributed.is_initialized()
    return dict(os.environ), handlers, torch.get_num_threads(), sys.path[:], random, named

def go(**changes):
    method = byzdist.byz_vr_marina_pp(step_size=0.2, cohort=4, p=0.2, batch_size=8)
    settings = dict(rounds=12, clients=6, byzantine=1, method=method, rule=lambda vectors, f: vectors.median(0).values,
                    attack=lambda now: now.honest.mul_(-3.0), evaluate=4, progress=False)
    model = net()
    before = state()
    try:
        return byzdist.train(model, (X, Y), **{**settings, **changes})
    finally:
        assert state() == before, [pair for pair in zip(state(), before) if pair[0] != pair[1]]

def digest(run):
    timing = ("seconds", "bytes_up", "bytes_down", "news")
    lines = [{k: v for k, v in line.items() if k not in timing} for line in run._lines()]
    return [run.model().weight.tolist(), run.model().bias.tolist(), lines]
"""


def script(folder: Path, text: str) -> str:
    """Write a script and return its path."""
    path = folder / "script.py"
    path.write_text(COMMON + text)
    return str(path)


def digests(output: str) -> list[str]:
    return re.findall(r"^digest (.*)$", output, re.MULTILINE)


THREE_WAYS = """
heard = []
def hear(record):
    heard.append((os.getpid(), record.round, tuple(record.cohort)))

if "RANK" in os.environ:
    for transport in ("star", "collective", "star"):
        run = go(transport=transport)
        assert (run is None) == (os.environ["RANK"] != "0")
        if run is not None:
            print("digest", json.dumps(digest(run)), flush=True)
else:
    for changes in ({"workers": 0}, {"workers": 2}, {"workers": 1, "transport": "collective"}):
        heard.clear()
        run = go(on_round=hear, **changes)
        assert [(pid, round_) for pid, round_, _ in heard] == [(os.getpid(), r) for r in range(13)], heard
        assert [list(cohort) for _, _, cohort in heard] == run.metrics["cohort"].tolist()
        print("digest", json.dumps(digest(run)), flush=True)
"""


def test_one_process_forks_and_torchrun_give_the_same_bits_and_leave_nothing(tmp_path: Path) -> None:
    path = script(tmp_path, THREE_WAYS)
    with Job([sys.executable, path], cwd=tmp_path) as job:
        assert job.wait(90) == 0, job.output
        job.assert_clean()
    torchrun = [
        str(Path(sys.executable).with_name("torchrun")),
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(free_port()),
    ]
    with Job([*torchrun, "--nproc-per-node", "3", path], cwd=tmp_path) as ranks:
        assert ranks.wait(90) == 0, ranks.output
        ranks.assert_clean()
    found = digests(job.output) + digests(ranks.output)
    assert len(found) == 6 and len(set(found)) == 1


FAILURES = """
def expect(error, said, **changes):
    try:
        go(workers=2, **changes)
    except error as raised:
        assert said in str(raised), raised
    else:
        raise AssertionError(f"no {error.__name__}: {said}")

def ends(record):
    if record.round == 3:
        raise LookupError("the caller's own")

expect(LookupError, "the caller's own", on_round=ends, out="part")
assert byzdist.load_run("part").summary["status"] == "stopped"
assert byzdist.load_run("part").metrics["round"].tolist() == [0, 1, 2, 3]
run = go(workers=1, out="part", resume=True)
whole = go(workers=0)
assert digest(run)[:2] == digest(whole)[:2]
expect(byzdist.ConfigError, "Did you mean 'krum'", rule="krumm")
wild = {"method": byzdist.byz_vr_marina(step_size=1e9, p=1.0), "rule": "mean", "byzantine": 0, "attack": "none"}
expect(byzdist.RunError, "diverged", evaluate=1, **wild)
def broken(now):
    raise IndexError("broken on purpose")

expect(byzdist.ConfigError, "round 0 with IndexError: broken on purpose", transport="collective", attack=broken)
expect(byzdist.RunError, "rank 2 failed: it was ended by SIGKILL", transport="collective",
       attack=lambda now: os.kill(os.getpid(), signal.SIGKILL) if now.round.number == 3 else now.honest)
print("as expected", flush=True)
"""


def test_a_failure_is_one_exception_in_the_caller_and_nothing_is_left(tmp_path: Path) -> None:
    with Job([sys.executable, script(tmp_path, FAILURES)], cwd=tmp_path) as job:
        assert job.wait(120) == 0, job.output
        job.assert_clean()
    assert "as expected" in job.output, job.output


INTERRUPTED = """
for delay in (0.02, 0.4):  # before the start, and during it
    threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        go(workers=2, rounds=10**6)
    except KeyboardInterrupt:
        print("early", flush=True)

def say(record):
    if record.round == 3:
        print("round 3", flush=True)

try:
    go(workers=2, rounds=10**6, out="run", on_round=say)
except KeyboardInterrupt:
    print("interrupted", byzdist.load_run("run").summary["status"], flush=True)
time.sleep(0.1)
print("goes on", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_is_then_the_scripts_own(tmp_path: Path, number: signal.Signals) -> None:
    with Job([sys.executable, script(tmp_path, INTERRUPTED)], cwd=tmp_path) as job:
        until = time.monotonic() + 60
        while "round 3" not in job.output and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(job.process.pid, number)
        assert job.wait(60) == 0, job.output
        job.assert_clean()
    assert ("interrupted stopped" if number == signal.SIGINT else "mine") in job.output, job.output
    assert "goes on" in job.output and job.output.count("early") == 2, job.output


def test_a_killed_script_takes_its_processes_along(tmp_path: Path) -> None:
    with Job([sys.executable, script(tmp_path, INTERRUPTED)], cwd=tmp_path) as job:
        until = time.monotonic() + 60
        while "round 3" not in job.output and time.monotonic() < until:
            time.sleep(0.05)
        job.process.kill()
        job.process.wait(10)
        job.assert_clean(30)
