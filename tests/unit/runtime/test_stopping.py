"""byzdist.runtime.stopping: a second signal is fatal, unless the process has its own handlers back by then."""

import os
import signal
import time

import pytest

from byzdist.runtime import stopping
from byzdist.runtime.stopping import Stop, on_signals, signals_given_back


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_over", [False, True])
def test_the_first_signal_tells_and_a_later_one_is_the_systems_while_the_run_goes_on(monkeypatch, number, is_over):
    left_to_the_system, told = [], []
    monkeypatch.setattr(stopping, "_SAME_SIGNAL", 0.1)
    monkeypatch.setattr(stopping, "_SYSTEM_SIGNAL", lambda fatal, handler: left_to_the_system.append(fatal))
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with signals_given_back():
        on_signals(lambda: told.append(True))
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the same one, which comes twice
        until = time.monotonic() + (0.0 if is_over else 10.0)
        while len(left_to_the_system) < 2 and time.monotonic() < until:
            time.sleep(0.01)
    assert told == [True]
    if is_over:
        time.sleep(0.3)
    assert left_to_the_system == ([] if is_over else [signal.SIGINT, signal.SIGTERM])
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_word_to_stop_ends_the_wait_for_clients():
    woken = []
    stop = Stop(lambda: woken.append(stop.is_told))
    assert not stop.is_told and woken == []
    stop.tell()
    assert stop.is_told and woken == [True]
