"""Runs that are interrupted and resumed, in one process: the same bits as without the interruption."""

import errno
import json
import weakref
from dataclasses import dataclass
from typing import Annotated

import pytest
import torch
from annotated_types import Gt

from byzdist.errors import RunError
from byzdist.methods.estimates import SGD
from byzdist.runtime import serving
from byzdist.runtime.server import Server
from byzdist.storage import checkpoint, saving
from byzdist.storage.checkpoint import file_name, read_checkpoint, rounds
from byzdist.storage.saving import WorkerSaver
from byzdist.transport.local import LocalServer
from byzdist.transport.wire import Stage
from tests.support.cases import BASE, CASES, RAND_K, case
from tests.support.harness import comparable
from tests.support.inprocess import train_in
from tests.support.runs import drop_after
from tests.support.standins import failing, watched

RESUMED = [
    "attack alie, rand_k",
    "byz_vr_marina_pp, full_batch, rand_k",
    "byz_vr_marina_pp, g0 zero",
    "byz_vr_marina_pp_plus, shared rand_k",
    "byz_vr_marina, rand_k",
    "momentum_sgd, clip 0.5",
    "momentum_sgd, rand_k",
    "momentum_sgd, label_flip",
    "everything at once",
]


def saved(config, rounds_=20, **settings):
    return {**config, "rounds": rounds_, "checkpoint": {"every": 1, "keep": 100, **settings}}


@pytest.mark.parametrize("name_", RESUMED)
def test_a_resumed_run_equals_the_uninterrupted_one(name_, tmp_path):
    whole = train_in(CASES[name_] | {"rounds": 12}, tmp_path / "whole")
    train_in(saved(CASES[name_], 12), tmp_path / "run")
    resumed_after = []
    for round_, workers, drop in ((9, 2, ()), (4, 5, ("bytes_down",))):
        resumed_after.append(drop_after(tmp_path / "run", round_))
        assert torch.equal(whole, train_in(saved(CASES[name_], 12), tmp_path / "run", workers, resume=True))
        assert comparable(tmp_path / "run", drop) == comparable(tmp_path / "whole", drop)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resumed_after"] == resumed_after


@dataclass(kw_only=True)
class Averaging(SGD):
    """A method whose server remembers something: the mean of all estimates so far."""

    weight: Annotated[float, Gt(0)] = 0.5

    def apply(self, g, aggregated, round_, level):
        old = self.state.get("mean", torch.zeros_like(g))
        self.state["mean"] = old * (1 - self.weight) + aggregated * self.weight
        g.copy_(self.state["mean"])


def test_what_a_methods_server_half_remembers_is_saved(tmp_path):
    config = case(name="sgd", clip="none")
    config["method"]["name"] = "tests.unit.runtime.test_resume:Averaging"
    whole = train_in(config | {"rounds": 20}, tmp_path / "whole")
    train_in(saved(config), tmp_path / "run")
    drop_after(tmp_path / "run", 7)
    assert torch.equal(whole, train_in(saved(config), tmp_path / "run", resume=True))


def test_a_run_can_go_on_beyond_its_end(tmp_path):
    whole = train_in(BASE | {"rounds": 20}, tmp_path / "whole")
    train_in(BASE | {"rounds": 10}, tmp_path / "run")
    assert torch.equal(whole, train_in(BASE | {"rounds": 20}, tmp_path / "run", resume=True))
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = train_in(BASE, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert torch.equal(first, train_in(BASE, tmp_path / "run", resume=True))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path):
    train_in(BASE, tmp_path / "whole")
    train_in(BASE, tmp_path / "run")
    for path in rounds(tmp_path / "run" / "checkpoint").values():
        path.unlink()
    train_in(BASE, tmp_path / "run", resume=True)
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


def test_without_a_run_to_resume_a_new_one_starts(tmp_path):
    train_in(BASE, tmp_path / "whole")
    train_in(BASE, tmp_path / "run", resume=True)
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


MOMENTUM = case(name="momentum_sgd", cohort=9, compression=RAND_K)


@pytest.mark.parametrize("damage", ["lost", "torn", "other run"])
def test_clients_whose_memory_is_lost_start_afresh_and_that_is_recorded(tmp_path, damage):
    folder = tmp_path / "run"
    whole = train_in(saved(MOMENTUM), folder)
    last = drop_after(folder, 12)
    path = folder / "checkpoint" / file_name(last, 2)  # of clients 1, 3, 5, 7
    if damage == "lost":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        found = read_checkpoint(path)
        type(found)("another", found.round, found.facts, found.tensors).write(path.parent, 2)
    resumed = train_in(saved(MOMENTUM), folder, resume=True)
    news = {line["round"]: line["news"] for line in map(json.loads, open(folder / "metrics.jsonl")) if "news" in line}
    assert news == {last + 1: [f"client {client} lost what it remembered and starts afresh" for client in (1, 3, 5, 7)]}
    assert not torch.equal(whole, resumed)


def test_a_run_with_other_ranks_finds_what_clients_remember(tmp_path):
    whole = train_in(saved(MOMENTUM), tmp_path / "run", workers=3)
    for round_, workers in ((15, 1), (10, 9), (5, 4)):
        drop_after(tmp_path / "run", round_)
        assert torch.equal(whole, train_in(saved(MOMENTUM), tmp_path / "run", workers, resume=True))
    assert not any("news" in line for line in comparable(tmp_path / "run", drop=()))


@pytest.mark.parametrize("config", [BASE, MOMENTUM], ids=["stateless", "momentum"])
def test_a_full_disk_does_not_stop_training_and_is_reported(tmp_path, monkeypatch, caplog, config):
    whole = train_in(config | {"rounds": 20}, tmp_path / "whole")

    def is_full(tensors, path, metadata):
        return json.loads(metadata["byzdist"])["round"] < 20 and "worker" not in path.name

    monkeypatch.setattr(saving, "_ASK_EVERY", 0.0)  # else the run may be over before a failure is heard of
    with failing(checkpoint, "save_file", errno.ENOSPC, is_full):
        assert torch.equal(whole, train_in(saved(config), tmp_path / "run"))
    news = [text for line in comparable(tmp_path / "run", drop=()) for text in line.get("news", [])]
    assert news and all("could not be written: No space left on device" in text for text in news)
    assert "Training goes on" in caplog.text
    assert list(rounds(tmp_path / "run" / "checkpoint")) == [20]


def test_a_worker_that_is_lost_at_the_very_end_costs_no_model(tmp_path):
    class Breaking(LocalServer):
        def stop(self):
            super().stop()
            if not broken:
                broken.append(self)
                raise RunError("worker rank 1 is gone")

    broken = []
    with pytest.raises(RunError, match="rank 1 is gone"):
        train_in(BASE, tmp_path / "run", end=Breaking)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_server_does_not_keep_the_checkpoint_that_it_went_on_from(tmp_path, monkeypatch):
    train_in(BASE | {"rounds": 5}, tmp_path / "run")
    kept = []

    class Resumed(Server):
        def resume(self, checkpoint, same_workers):
            kept.extend(weakref.ref(tensor) for tensor in checkpoint.tensors.values())
            super().resume(checkpoint, same_workers)

        def run(self):
            assert len(kept) == 2 and not any(tensor() is not None for tensor in kept)
            return super().run()

    monkeypatch.setattr(serving, "Server", Resumed)
    train_in(BASE, tmp_path / "run", resume=True)


def test_data_are_not_loaded_again_for_a_minimum_that_is_not_looked_for(tmp_path):
    with watched(serving, "load_data") as loaded:
        train_in(BASE | {"rounds": 1, "dtype": "float32", "model": {"name": "mlp", "hidden": [3]}}, tmp_path / "run")
    assert not loaded


def test_a_stop_whose_state_cannot_be_saved_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "on_signals", lambda told: told())
    with (
        failing(checkpoint, "save_file", errno.ENOSPC),
        pytest.raises(RunError, match="of round 0 could not be written: No space"),
    ):
        train_in(BASE, tmp_path / "run")


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole = train_in(MOMENTUM, tmp_path / "whole")

    class Stopping(LocalServer):
        def collect(self, deadline):
            if self._request.round.number == 17:
                stops[0].tell()
            return super().collect(deadline)

    stops = []
    with monkeypatch.context() as patch:
        patch.setattr(serving, "on_signals", lambda told: stops.append(told.__self__))
        train_in(MOMENTUM, tmp_path / "run", end=Stopping)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "stopped"
    assert list(rounds(tmp_path / "run" / "checkpoint")) == [17]
    assert torch.equal(whole, train_in(MOMENTUM, tmp_path / "run", resume=True))
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


@pytest.mark.parametrize("dies_in", ["available", "collect"])
def test_a_run_that_cannot_go_on_saves_the_last_complete_round(tmp_path, dies_in):
    whole = train_in(BASE, tmp_path / "whole")

    class Dying(LocalServer):
        rounds = 0

        def available(self):
            self.rounds += 1
            return self._end(super().available, "available")

        def collect(self, deadline):
            return self._end(lambda: super(Dying, self).collect(deadline), "collect")

        def _end(self, action, where):
            if self.rounds == 18 and where == dies_in:  # round 17, for round 0 draws as well
                raise RunError("nobody is left")
            return action()

    with pytest.raises(RunError, match="nobody is left"):
        train_in(BASE, tmp_path / "run", end=Dying)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert list(rounds(tmp_path / "run" / "checkpoint")) == [16]
    assert torch.equal(whole, train_in(BASE, tmp_path / "run", resume=True))
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


@pytest.mark.parametrize("workers, known", [(2, {"clients", "holders"}), (3, {"clients"})])
def test_what_is_known_of_clients_survives_a_change_of_ranks(tmp_path, workers, known):
    told = []

    class Remembering(LocalServer):
        def snapshot(self, round_):
            return {"clients": [[3, 1, ""]], "holders": [1]}

        def resume(self, round_, snapshot, everyone):
            told.append(snapshot)

    train_in(saved(BASE, 5), tmp_path / "run", end=Remembering)
    train_in(saved(BASE, 8), tmp_path / "run", workers, resume=True, end=Remembering)
    assert len(told) == 1 and told[0].keys() == known and told[0]["clients"] == [[3, 1, ""]]


def test_clients_whose_part_a_checkpoint_lacks_start_afresh(tmp_path, monkeypatch):
    """Worker 2 says that it cannot save, and leaves its files nevertheless."""
    config, save = CASES["momentum_sgd, rand_k"], WorkerSaver.save

    def fail(self, order, remembered):
        stage = save(self, order, remembered)
        return Stage.FAILED if self._rank == 2 and stage is Stage.SAVED else stage

    with monkeypatch.context() as patch:
        patch.setattr(WorkerSaver, "save", fail)
        patch.setattr(saving, "_ASK_EVERY", 0.0)  # else the run is over before the workers are asked again
        train_in(saved(config, 12), tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / "checkpoint" / file_name(12)).facts["missing"] == [2]
    assert (tmp_path / "run" / "checkpoint" / file_name(12, 2)).exists()
    train_in(saved(config, 24), tmp_path / "run", resume=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    news = [text for line in lines for text in line.get("news", [])]
    assert "the checkpoint of round 1 lacks what the clients of workers [2] remember" in news
    assert "the checkpoint of round 12 lacks what the clients of workers [2] remembered; they start afresh" in news
    afresh = {int(text.split()[1]) for text in news if text.endswith("lost what it remembered and starts afresh")}
    asked = {client for line in lines[13:] for client in line["cohort"]}
    assert afresh == {client for client in asked if client % 2 == 1}


def test_a_default_that_is_a_tuple_does_not_stop_a_resume(tmp_path):
    config = saved(case("ipm") | {"model": {"name": "mlp"}}, 4)
    whole = train_in(config, tmp_path / "run")
    drop_after(tmp_path / "run", 2)
    assert torch.equal(whole, train_in(config, tmp_path / "run", resume=True))
