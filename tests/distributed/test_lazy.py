"""Data that are read lazily and augmented, in real processes: the same bits on every transport, and an error that names its sample."""

import signal
from collections.abc import Generator
from itertools import tee

import numpy as np
import pytest
import torch

from byzdist.errors import ConfigError, RunError
from byzdist.problem.data import Lazy
from byzdist.problem.data.ahead import ReadAhead, _Helper
from tests.support.cases import BASE, case
from tests.support.harness import comparable, train
from tests.support.inprocess import train_in

TREE = {**BASE, "rounds": 15, "attack": "shift_back", "data": {"name": f"{__name__}:augmented", "split": "iid"}}


class Noisy(torch.utils.data.Dataset):
    def __init__(self, broken):
        generator = np.random.default_rng(0)
        self.features, self.targets, self.broken = generator.standard_normal((90, 12)), np.arange(90) % 2, broken

    def __len__(self):
        return len(self.features)

    def __getitem__(self, index):
        if index == self.broken:
            raise KeyError("no such picture")
        return self.features[index] + 0.1 * np.random.standard_normal(12) * float(torch.rand(())), self.targets[index]


def augmented(*, broken: int = -1):
    return Lazy(Noisy(broken))


def test_an_augmented_run_has_the_same_bits_on_every_transport_read_ahead_or_in_place(tmp_path):
    folders = [tmp_path / name for name in ("star", "collective", "local")]
    for folder in folders[:2]:
        folder.mkdir()
    ahead = [{**TREE, "data": {**TREE["data"], "workers": processes}} for processes in (2, 1)]
    star = train(folders[0], {**ahead[0], "transport": "star"}, workers=3)
    collective = train(folders[1], {**ahead[1], "transport": "collective"}, workers=2)
    local = train_in({**TREE, "transport": "local"}, folders[2], workers=1)
    assert torch.equal(star.model, collective.model) and torch.equal(star.model, local)
    bytes_differ = ("news", "bytes_up", "bytes_down")
    assert comparable(star.folder, bytes_differ) == comparable(collective.folder, bytes_differ)


def test_a_run_goes_on_with_the_same_draws(tmp_path):
    train_in({**TREE, "rounds": 7}, tmp_path / "parts", workers=2)
    parts = train_in(TREE, tmp_path / "parts", workers=2, resume=True)
    assert torch.equal(parts, train_in(TREE, tmp_path / "whole", workers=2))


LOCAL = case("none", p=None, name="local_steps", steps=3, inner={"name": "sgd", "step_size": 0.1})["method"]


@pytest.mark.parametrize("split, method", [("shared", TREE["method"]), ("iid", TREE["method"]), ("iid", LOCAL)])
def test_batches_of_a_round_are_asked_for_while_the_round_before_is_computed(tmp_path, monkeypatch, split, method):
    """Worker and server are one thread here, so every batch that is being read at `Foresight.tell` was announced a round before."""
    under_way, unannounced, begins = list[bool](), 0, ReadAhead.expect

    def expect(self, jobs):
        nonlocal unannounced
        unannounced += not isinstance(jobs, Generator)
        if isinstance(jobs, Generator):  # the jobs of a worker's foresight
            jobs, copy = tee(jobs)
            under_way.append(self._is_next(next(copy)))
        begins(self, jobs)

    monkeypatch.setattr(ReadAhead, "expect", expect)
    data = {**TREE["data"], "split": split, "workers": 1}
    tree = {**TREE, "method": method, "attack": "none"}
    ahead = train_in({**tree, "data": data}, tmp_path / "ahead", workers=1)
    assert under_way == [False] + [True] * 15 and unannounced == 0
    in_place = {**tree, "data": {**data, "workers": 0}}
    assert torch.equal(ahead, train_in(in_place, tmp_path / "in place", workers=1))


def test_a_reading_process_that_is_killed_ends_the_run_with_its_name(tmp_path, monkeypatch):
    ask = _Helper.ask

    def killed(self, job):
        self._process.send_signal(signal.SIGKILL)
        ask(self, job)

    monkeypatch.setattr(_Helper, "ask", killed)
    with pytest.raises(
        RunError, match=r"a process that reads ahead \(data.workers\) was ended by SIGKILL while it read"
    ):
        train_in({**TREE, "data": {**TREE["data"], "workers": 1}}, tmp_path / "run")


@pytest.mark.parametrize("processes", [0, 1])
def test_what_a_sample_raises_ends_the_run_with_client_sample_and_place(tmp_path, processes):
    data = {**TREE["data"], "broken": 41, "split": "shared", "workers": processes}
    wanted = r"cannot be read for client [0-8]: sample 41 ended with KeyError: 'no such picture' \(.*in __getitem__\)"
    with pytest.raises(RunError, match=wanted):
        train_in({**TREE, "data": data}, tmp_path / "run")


def test_a_sample_that_breaks_the_start_is_a_mistake_in_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="for a trial: sample 40 ended"):
        train_in({**TREE, "data": {**TREE["data"], "broken": 40}}, tmp_path / "run")
