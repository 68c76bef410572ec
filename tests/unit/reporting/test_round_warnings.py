"""byzdist.reporting.round_warnings: each comes once, with the numbers, and only where there is a reason."""

import logging

import pytest
import torch

from byzdist.aggregation import Aggregated
from byzdist.methods import METHODS
from byzdist.reporting.round_warnings import RoundWarnings

VECTORS = torch.ones(4, 4)  # each of norm 2


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="byzdist.reporting.round_warnings")
    return lambda: caplog.messages


def warnings(clip=1.0, attacked=True):
    return RoundWarnings(
        METHODS.build({"name": "sgd", "step_size": 0.1, "cohort": 4, "clip": clip}, key="method"), is_attacked=attacked
    )


def watch(watcher, rounds, level, clipped):
    for _ in range(rounds):
        watcher.watch(VECTORS, level, Aggregated(VECTORS[0], clipped, 1))


def test_a_level_that_never_clips_under_attack_is_named_once_with_one_that_would(said):
    watcher = warnings(clip=3.0)
    watch(watcher, 299, 20.0, 0)
    assert said() == []
    watch(watcher, 301, 20.0, 0)
    (message,) = said()
    assert "in 300 sampled rounds no reply was clipped" in message and "at most 0.1 of it" in message
    assert "set method.clip to about 0.6 instead of 3" in message  # twice the median norm


@pytest.mark.parametrize(("attacked", "level", "clipped"), [(False, 20.0, 0), (True, None, 0), (True, 1.5, 1)])
def test_nothing_is_said_without_attack_without_a_level_or_where_it_clips(said, attacked, level, clipped):
    watch(warnings(attacked=attacked), 400, level, clipped)
    assert said() == []


def test_an_estimate_that_explodes_is_named_once_with_its_round(said):
    watcher = warnings(clip="none")
    for round_, size in enumerate((2.0, 1.0, 1999.0, 2001.0, 1e9)):
        watcher.watch_estimate(25 * round_, size)
    (message,) = said()
    assert "its norm is 2e+03 in round 75 and was 2 at first" in message and "method.clip to a number" in message
