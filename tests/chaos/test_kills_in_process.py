"""A run is killed at every step that touches its files or its workers, and resumed: the same bits as never killed.

After the kill no thread writes anything any more; a file that was being written is left torn.
"""

import itertools
import os
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from byzdist.reporting.metrics import Metrics
from byzdist.storage import checkpoint, saving
from byzdist.transport.local import LocalServer
from tests.support.cases import RAND_K, case
from tests.support.harness import comparable
from tests.support.inprocess import train_in

MARINA = case("shift_back", RAND_K) | {"rounds": 7, "evaluate": {"every": 3}, "checkpoint": {"every": 2, "keep": 2}}
MOMENTUM = {**MARINA, "method": case(name="momentum_sgd")["method"]}


class Killed(BaseException):
    """What stands for SIGKILL; nothing catches it."""


class Life:
    """Lets so many steps pass; then the process is dead, and every further step with it."""

    def __init__(self, steps: float) -> None:
        self.steps, self.dead = steps, False
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self.steps -= 1
            self.dead |= self.steps < 0
        if self.dead:
            raise Killed


def live(life: Life, patch: pytest.MonkeyPatch) -> type[LocalServer]:
    """Make everything that leaves a trace a step of this life; return the server's end to use."""
    save_file, replace, unlink, write = safetensors.torch.save_file, os.replace, Path.unlink, Metrics._write

    def torn_save_file(tensors, path, metadata):
        life.step()
        save_file(tensors, path, metadata)
        try:
            life.step()
        except Killed:
            os.truncate(path, path.stat().st_size // 2)
            raise

    def torn_write(self, text):
        try:
            life.step()
        except Killed:
            if life.steps == -1:
                write(self, text[: len(text) // 2])
            raise
        write(self, text)
        life.step()

    def step_replace(old, new):
        life.step()
        replace(old, new)
        life.step()

    def step_unlink(self, missing_ok=False):
        life.step()
        unlink(self, missing_ok)

    class Server(LocalServer):
        def send(self, request):
            life.step()
            super().send(request)

        def collect(self, deadline):
            replies = super().collect(deadline)
            life.step()
            return replies

        def save(self, order):
            life.step()
            super().save(order)
            life.step()

    patch.setattr(saving, "_ASK_EVERY", 0.0)  # else the run is over before the workers are asked again
    patch.setattr(checkpoint, "save_file", torn_save_file)
    patch.setattr(os, "replace", step_replace)
    patch.setattr(os, "fsync", lambda handle: life.step())
    patch.setattr(Path, "unlink", step_unlink)
    patch.setattr(Metrics, "_write", torn_write)
    return Server


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("config", [MARINA, MOMENTUM], ids=["marina", "momentum"])
def test_a_run_survives_a_kill_at_any_step(config, stride, tmp_path, monkeypatch):
    whole = train_in(config, tmp_path / "whole")
    expected = comparable(tmp_path / "whole")
    resumed_from = set()
    for steps in itertools.count(0, stride):
        folder = tmp_path / str(steps)
        with monkeypatch.context() as patch:
            life = Life(steps)
            end = live(life, patch)
            try:
                train_in(config, folder, end=end)
            except Killed:
                pass
        resumed_from.add(max(checkpoint.rounds(folder / "checkpoint"), default=-1))
        assert torch.equal(whole, train_in(config, folder, workers=2 + steps % 2, resume=True)), steps
        drop = ("bytes_down",) if steps % 2 else ()
        assert comparable(folder, drop) == comparable(tmp_path / "whole", drop) and len(expected) == 8, steps
        if not life.dead:
            break
    assert steps > 60, "kills"
    assert {-1, 7} < resumed_from, "it never went on from the middle"


def test_a_run_survives_one_kill_after_another(tmp_path, monkeypatch):
    whole = train_in(MOMENTUM, tmp_path / "whole")
    kills = 0
    for steps in itertools.count(5, 4):
        with monkeypatch.context() as patch:
            life = Life(steps)
            end = live(life, patch)
            try:
                last = train_in(MOMENTUM, tmp_path / "run", resume=True, end=end)
                break
            except Killed:
                kills += 1
    assert kills >= 8
    assert torch.equal(whole, last) and comparable(tmp_path / "run") == comparable(tmp_path / "whole")
