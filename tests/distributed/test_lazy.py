"""Data that are read lazily and augmented, in real processes: the same bits on every transport, and an error that names its sample."""

import numpy as np
import pytest
import torch

from byzdist.errors import ConfigError, RunError
from byzdist.problem.data import Lazy
from tests.support.cases import BASE
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


def test_an_augmented_run_has_the_same_bits_on_every_transport(tmp_path):
    folders = [tmp_path / name for name in ("star", "collective", "local")]
    for folder in folders[:2]:
        folder.mkdir()
    star = train(folders[0], {**TREE, "transport": "star"}, workers=3)
    collective = train(folders[1], {**TREE, "transport": "collective"}, workers=2)
    local = train_in({**TREE, "transport": "local"}, folders[2], workers=1)
    assert torch.equal(star.model, collective.model) and torch.equal(star.model, local)
    bytes_differ = ("news", "bytes_up", "bytes_down")
    assert comparable(star.folder, bytes_differ) == comparable(collective.folder, bytes_differ)


def test_a_run_goes_on_with_the_same_draws(tmp_path):
    train_in({**TREE, "rounds": 7}, tmp_path / "parts", workers=2)
    parts = train_in(TREE, tmp_path / "parts", workers=2, resume=True)
    assert torch.equal(parts, train_in(TREE, tmp_path / "whole", workers=2))


def test_what_a_sample_raises_ends_the_run_with_client_sample_and_place(tmp_path):
    data = {**TREE["data"], "broken": 41, "split": "shared"}
    wanted = r"cannot be read for client [0-8]: sample 41 ended with KeyError: 'no such picture' \(.*in __getitem__\)"
    with pytest.raises(RunError, match=wanted):
        train_in({**TREE, "data": data}, tmp_path / "run")


def test_a_sample_that_breaks_the_start_is_a_mistake_in_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="for a trial: sample 40 ended"):
        train_in({**TREE, "data": {**TREE["data"], "broken": 40}}, tmp_path / "run")
