"""A process says what it waits for once that takes longer than a moment, and not before."""

import logging
import time

from byzdist.transport.waiting import Waiting


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_long_wait_is_said_again_and_again_until_it_is_over(caplog):
    missing = [2, 3]
    with Waiting(lambda: f"workers {missing}", max_wait=60, first=0.05, again=0.05):
        until(lambda: len(caplog.messages) >= 2)
        missing.pop()
        until(lambda: "[2]:" in caplog.messages[-1])
    said = caplog.messages[:]
    assert said[0] == "waiting for workers [2, 3]: 0 s so far, 60 s at most" and "workers [2]:" in said[-1]
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    time.sleep(0.2)
    assert caplog.messages == said


def test_a_short_wait_is_not_mentioned_nor_one_for_nobody(caplog):
    with Waiting(lambda: "them", max_wait=60, first=5):
        pass
    with Waiting(lambda: "", max_wait=60, first=0.01, again=0.01):
        time.sleep(0.1)
    assert not caplog.messages
