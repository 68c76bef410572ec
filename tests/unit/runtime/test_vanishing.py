"""A run's folder disappears during the run: the run notices it, says so, and saves what it can."""

import gc
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from byzdist.cli.evaluate.report import evaluate
from byzdist.errors import RunError
from byzdist.host.locks import Lock, LockTaken
from byzdist.runtime import vanishing
from byzdist.transport.local import LocalServer
from tests.support.cases import BASE, case
from tests.support.inprocess import train_in

TREE = BASE | {"rounds": 30}
FILES = {"run.json", "config.yaml", "clients.csv", "metrics.jsonl", "summary.json", "model.safetensors", "model.pt"}


@pytest.fixture(autouse=True)
def looking_always(monkeypatch):
    monkeypatch.setattr(vanishing, "_LOOK_EVERY", 0.0)


def interfering(act, at=12):
    """Return a server's end that does something before a round's requests go out."""

    class Interfering(LocalServer):
        def send(self, request):
            if request.round.number == at:
                act()
            super().send(request)

    return Interfering


def rounds(folder):
    return [json.loads(line)["round"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_in(TREE, tmp_path_factory.mktemp("plain") / "run")


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("act", [shutil.rmtree, empty, lambda folder: (folder / "metrics.jsonl").unlink()])
@pytest.mark.parametrize("at", [0, 12, 30])
def test_a_folder_that_was_removed_is_made_again_with_all_that_there_is(tmp_path, caplog, model, act, at):
    folder = tmp_path / "run"
    found = train_in(TREE, folder, end=interfering(lambda: act(folder), at))
    assert torch.equal(found, model)
    assert sum("was removed" in message for message in caplog.messages) == 1
    assert {path.name for path in folder.iterdir()} >= FILES
    assert rounds(folder) == list(range(31))
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    assert "after round 30" in evaluate(folder)


def test_a_run_whose_folder_was_removed_can_be_resumed(tmp_path, model):
    folder = tmp_path / "run"
    train_in(TREE | {"rounds": 20}, folder, end=interfering(lambda: shutil.rmtree(folder)))
    assert torch.equal(train_in(TREE, folder, resume=True), model)
    assert rounds(folder) == list(range(31))


def test_a_folder_that_was_removed_is_locked_again(tmp_path):
    folder, refusals = tmp_path / "run", []

    class Interfering(LocalServer):
        def send(self, request):
            if request.round.number == 12:
                shutil.rmtree(folder)
            if request.round.number == 20:
                with pytest.raises(LockTaken):
                    Lock(folder / ".lock").acquire(0)
                refusals.append(request.round.number)
            super().send(request)

    train_in(TREE, folder, end=Interfering)
    assert refusals == [20]


@pytest.mark.parametrize("taken", ["by a run", "by a folder"])
def test_a_name_that_somebody_else_has_taken_meanwhile_is_left_to_him(tmp_path, model, taken):
    folder, beside, others = tmp_path / "run", tmp_path / "run_2", Lock(tmp_path / "run" / ".lock")

    def take():
        shutil.rmtree(folder)
        folder.mkdir()
        others.acquire(0) if taken == "by a run" else (folder / "mine.txt").write_text("mine")

    with pytest.raises(RunError, match=r"was taken away.*after round 12 are in .*run_2"):
        train_in(TREE, folder, end=interfering(take))
    assert [path.name for path in folder.iterdir()] == [".lock" if taken == "by a run" else "mine.txt"]
    assert {path.name for path in beside.iterdir()} >= FILES
    assert torch.equal(train_in(TREE, beside, resume=True), model) and rounds(beside) == list(range(31))


def test_a_folder_that_was_renamed_gets_what_there_is_and_the_run_ends(tmp_path, caplog, model):
    old, new = tmp_path / "run", tmp_path / "new"
    with pytest.raises(RunError, match="was taken away while the run went on.* --resume --out") as end:
        train_in(TREE, old, end=interfering(lambda: old.rename(new)))
    assert str(new) in str(end.value) and "after round 12" in str(end.value)
    assert not old.exists() and {path.name for path in new.iterdir()} >= FILES
    assert rounds(new) == list(range(13))
    assert json.loads((new / "summary.json").read_text())["status"] == "stopped"
    assert "is now" in caplog.text
    assert torch.equal(train_in(TREE, new, resume=True), model)  # nothing is lost
    assert rounds(new) == list(range(31))


def test_what_clients_remember_is_taken_along(tmp_path):
    tree = case("none", name="momentum_sgd") | {"rounds": 30}
    expected = train_in(tree, tmp_path / "plain")
    old, new = tmp_path / "run", tmp_path / "new"
    with pytest.raises(RunError, match="was taken away"):
        train_in(tree, old, end=interfering(lambda: old.rename(new)))
    assert not old.exists()
    assert len(list((new / "checkpoint").glob("round-00000012.worker-*"))) == 2
    assert torch.equal(train_in(tree, new, resume=True), expected)


def test_another_folder_of_the_name_is_not_the_runs(tmp_path):
    old, new = tmp_path / "run", tmp_path / "new"

    def swap():
        old.rename(new)
        old.mkdir()
        (old / "mine.txt").write_text("mine")

    with pytest.raises(RunError, match="was taken away"):
        train_in(TREE, old, end=interfering(swap))
    assert [path.name for path in old.iterdir()] == ["mine.txt"]
    assert {path.name for path in new.iterdir()} >= FILES


def test_a_system_that_does_not_tell_the_new_name_gets_the_folder_again(tmp_path, monkeypatch, model):
    monkeypatch.setattr(vanishing, "_OPEN_FOLDERS", Path("/nowhere"))
    old, new = tmp_path / "run", tmp_path / "new"
    found = train_in(TREE, old, end=interfering(lambda: old.rename(new)))
    assert torch.equal(found, model) and {path.name for path in old.iterdir()} >= FILES
    assert rounds(old) == list(range(31))


def test_a_folder_that_cannot_be_made_again_ends_the_run_with_a_sentence(tmp_path):
    folder = tmp_path / "above" / "run"
    folder.parent.mkdir()

    def bury():
        shutil.rmtree(folder.parent)
        folder.parent.write_text("a file in the way")

    with pytest.raises(RunError, match="was removed and cannot be made again|cannot be written"):
        train_in(TREE, folder, end=interfering(bury))


def test_file_systems_that_renumber_their_files_are_believed(tmp_path, monkeypatch, caplog, model):
    true_stat, calls = os.stat, iter(range(10**9))

    def renumbered(path, *rest, **more):
        facts = true_stat(path, *rest, **more)
        if path != tmp_path / "run":
            return facts
        return os.stat_result((facts.st_mode, next(calls), *tuple(facts)[2:]))

    monkeypatch.setattr(os, "stat", renumbered)
    assert torch.equal(train_in(TREE, tmp_path / "run"), model)
    assert "folder" not in caplog.text


def test_the_watch_leaves_no_descriptor(tmp_path):
    def held():
        gc.collect()
        numbers = [number for number in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{number}")]
        return [
            name for number in numbers if (name := os.readlink(f"/proc/self/fd/{number}")).startswith(str(tmp_path))
        ]

    train_in(TREE, tmp_path / "run", end=interfering(lambda: shutil.rmtree(tmp_path / "run")))
    assert not held()
