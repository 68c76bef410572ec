"""Signals before training begins: one line at once, no traceback; a rank under an agent is silent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.harness import ROOT

START = (
    "import signal, sys, time; from byzdist.host import interrupt; interrupt.end_at_once(); print('up', flush=True)\n"
)
BUSY = {
    "in Python": "while True: pass",
    "asleep": "time.sleep(60)",
    "waiting in C": "import ctypes; ctypes.CDLL(None).pause()",  # returns, and is called again
    "waiting in C again and again": "import ctypes\nsleep = ctypes.CDLL(None).sleep\nwhile sleep(60): pass",
    "amid imports": "while True:\n  import json, decimal\n  del sys.modules['json'], sys.modules['decimal']",
    "in a finally": "try:\n  time.sleep(60)\nfinally:\n  time.sleep(60)",
}


def started(code, **env):
    inherited = {k: v for k, v in os.environ.items() if k not in ("BYZDIST_AGENT", "TORCHELASTIC_RUN_ID")}
    process = subprocess.Popen(
        [sys.executable, "-c", START + code],
        cwd=ROOT,
        env={**inherited, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"up\n"
    time.sleep(0.1)
    return process


def end(process, number):
    begun = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - begun < 10
    return process.returncode, errors.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", BUSY)
def test_a_signal_ends_the_process_with_a_line(what, number):
    assert end(started(BUSY[what]), number) == (1, "byzdist: interrupted.\n")


def test_many_signals_are_one_line():
    process = started("time.sleep(60)")
    for _ in range(20):
        process.send_signal(signal.SIGINT)
    assert end(process, signal.SIGTERM) == (1, "byzdist: interrupted.\n")


@pytest.mark.parametrize("agent", ["BYZDIST_AGENT", "TORCHELASTIC_RUN_ID"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_rank_under_an_agent_ends_without_a_word(agent, number):
    assert end(started("time.sleep(60)", **{agent: "1"}), number) == (-number, "")


def test_whoever_sets_a_handler_later_has_the_signal():
    code = "told = []\nsignal.signal(signal.SIGINT, lambda *_: told.append(1))\n"
    code += "while not told: time.sleep(0.01)\ntime.sleep(0.3)\nsys.exit(7)"
    assert end(started(code), signal.SIGINT) == (7, "")


def test_an_ignored_signal_stays_ignored():
    code = "signal.signal(signal.SIGINT, signal.SIG_IGN)\ninterrupt.end_at_once()\nsignal.raise_signal(signal.SIGINT)\nsys.exit(7)"
    process = started(code)
    process.wait(20)
    assert process.returncode == 7
    process.communicate()


@pytest.mark.parametrize("rank", [None, "0"])
def test_a_process_that_has_torch_leaves_at_once_with_its_output_unless_it_is_a_rank(rank):
    code = """
import sys, atexit
from byzdist.cli import main as cli
from byzdist.__main__ import main
sys.modules["torch"] = sys
cli.main = lambda: print("the last words") or 3
atexit.register(print, "taken apart")
sys.exit(main())
"""
    env = {k: v for k, v in os.environ.items() if k != "RANK"} | ({"RANK": rank} if rank else {})
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == 3 and not done.stderr
    assert done.stdout == "the last words\n" + ("taken apart\n" if rank else "")
