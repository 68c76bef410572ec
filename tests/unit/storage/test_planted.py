"""A run's folder that somebody else has filled: byzdist writes nothing outside it, never blocks, and says why it stops."""

import json
import os
import pickle
import shutil
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from byzdist.cli.evaluate.report import evaluate
from byzdist.cli.main import main
from byzdist.errors import ConfigError, RunError
from byzdist.problem.data import Split, write_table
from byzdist.problem.models import build
from byzdist.reporting import plotting
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.prometheus import Prometheus
from byzdist.runtime.identity import claim
from byzdist.storage.checkpoint import Checkpoint, Damaged, file_name, newest, owner, read_checkpoint
from byzdist.storage.export import save_model
from tests.support.cases import BASE
from tests.support.inprocess import train_in
from tests.unit.host.test_files import KINDS, plant, victim
from tests.unit.storage.test_folder import content, experiment, leave_run

__all__ = ["victim"]
READ = ("run.json", "config.yaml", f"checkpoint/{file_name(10)}")
FEW = ("link", "dangling link", "FIFO")  # the others are in test_files
WRITTEN = (".lock", "metrics.jsonl", "summary.json", "clients.csv", "model.safetensors", "model.pt")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "run"
    train_in(BASE | {"rounds": 3}, folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def at_once(act, *arguments):
    """Do something that is to be refused, and return the complaint."""
    started = time.monotonic()
    with pytest.raises(ConfigError) as refusal:
        act(*arguments)
    assert time.monotonic() - started < 60
    return str(refusal.value)


@pytest.mark.parametrize("kind", FEW)
@pytest.mark.parametrize("file", READ + WRITTEN)
def test_a_run_with_something_planted_is_not_resumed(tmp_path, victim, file, kind):
    leave_run(tmp_path / "run")
    path = tmp_path / "run" / file
    path.unlink(missing_ok=True)
    plant(path, kind, victim)
    complaint = at_once(claim, tmp_path / "run", experiment(), True)
    assert path.name in complaint or "no run to resume" in complaint


def test_a_second_name_of_a_file_elsewhere_is_not_written_to(run, victim):
    for file in ("metrics.jsonl", ".lock"):
        (run / file).unlink()
        plant(run / file, "second name", victim)
        with pytest.raises((RunError, ConfigError), match=rf"{file}.*second name"):
            train_in(BASE | {"rounds": 12}, run, resume=True)


def test_a_checkpoint_folder_that_leads_elsewhere_is_refused_by_server_and_worker(tmp_path, victim):
    (tmp_path / "others").mkdir()
    leave_run(tmp_path / "run", round_=None)
    (tmp_path / "run" / "checkpoint").symlink_to(tmp_path / "others")
    assert "checkpoint" in at_once(claim, tmp_path / "run", experiment(), True)
    for worker in (None, 2):
        with pytest.raises(OSError, match="symbolic link"):
            Checkpoint("r", 3, {}, {"x": torch.zeros(2)}).write(tmp_path / "run" / "checkpoint", worker)
    assert not list((tmp_path / "others").iterdir())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"] + ["second name"])
@pytest.mark.parametrize("part", ["", ".part"])
def test_what_is_written_replaces_what_was_planted(tmp_path, victim, kind, part):
    model = build({"name": "logistic_regression", "l2": 0.0}, (4,), 2, seed=0)
    files = ["model.safetensors", "model.pt", "summary.json", "clients.csv", file_name(3), file_name(3, 1)]
    for file in files:
        plant(tmp_path / (file + part), kind, victim)
    save_model(model, torch.zeros(4), tmp_path, 1)
    metrics = Metrics(tmp_path)
    metrics.close("finished")
    write_table(Split(2, 2, None), np.zeros((2, 2), np.int64), tmp_path / "clients.csv")
    for worker in (None, 1):
        Checkpoint("r", 3, {}, {"x": torch.zeros(2)}).write(tmp_path, worker)
    for file in files:
        path = tmp_path / file
        assert path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1 and path.stat().st_size


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_metrics_are_kept_in_a_file_and_nowhere_else(tmp_path, victim, kind):
    plant(tmp_path / "metrics.jsonl", kind, victim)
    with pytest.raises(OSError):
        Metrics(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_is_no_file_is_no_checkpoint(tmp_path, victim, kind):
    plant(tmp_path / file_name(3), kind, victim)
    with pytest.raises((ConfigError, Damaged)):
        read_checkpoint(tmp_path / file_name(3))
    with pytest.raises(ConfigError):
        newest(tmp_path, "r")


HOSTILE_WORDS = {
    "nested": "[" * 100_000,
    "a list": "[]",
    "a name that is none": '{"format": 1, "run": ["r"], "round": 3}',
    "a round that is none": '{"format": 1, "run": "r", "round": "3"}',
    "a round before the first": '{"format": 1, "run": "r", "round": -3}',
    "a format that is none": '{"format": [1], "run": "r", "round": 3}',
}


@pytest.mark.parametrize("words", HOSTILE_WORDS.values(), ids=HOSTILE_WORDS)
def test_checkpoints_that_say_absurd_things_are_damaged(tmp_path, words):
    from byzdist.storage.checkpoint import _checksum

    tensors = {"x": torch.zeros(2)}
    save_file(
        tensors, tmp_path / file_name(3), {"format": "1", "byzdist": words, "checksum": _checksum(words, tensors)}
    )
    with pytest.raises(Damaged):
        read_checkpoint(tmp_path / file_name(3))
    assert owner(tmp_path / file_name(3)) in (None, "['r']", "r")


ABSURD_NAMES = (
    "round-99999999999999999999999999.safetensors",
    "round-00000001.worker-99999999999999.safetensors",
    "round--1.safetensors",
    "round-\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661.safetensors",  # digits, but not ASCII's
    "round-00000001.safetensors\n",
    "round-\udcff.safetensors",
    "-rf",
    "x" * 255,
)


def test_files_of_absurd_names_are_in_nobodys_way(tmp_path):
    leave_run(tmp_path / "run")
    for file in ABSURD_NAMES:
        for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint"):
            (folder / file).write_bytes(b"")
    try:
        found = claim(tmp_path / "run", experiment(), resume=True)
        assert found.checkpoint is not None and found.checkpoint.round == 10
        found.lock.release()
    except ConfigError as refusal:
        assert "round-" in str(refusal)


@pytest.mark.parametrize("kind", FEW)
@pytest.mark.parametrize("file", ["config.yaml", "model.safetensors"])
def test_evaluate_refuses_what_is_planted(run, victim, file, kind):
    (run / file).unlink()
    plant(run / file, kind, victim)
    assert file in at_once(evaluate, run)


@pytest.mark.parametrize("kind", FEW)
@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl"])
def test_plot_refuses_what_is_planted(run, victim, file, kind, tmp_path):
    (run / file).unlink()
    plant(run / file, kind, victim)
    assert "not what a run writes" in at_once(plotting.plot, [run], tmp_path / "p.png") or file == "config.yaml"


HOSTILE_MODELS = {
    "a tebibyte": {"weight": (1 << 37,)},
    "many": {f"w{i}": (1,) for i in range(1000)},
    "another shape": {"weight": (12, 1)},
    "none": {},
}


@pytest.mark.parametrize("shapes", HOSTILE_MODELS.values(), ids=HOSTILE_MODELS)
def test_a_model_of_absurd_size_is_refused_before_it_is_read(run, shapes):
    header: dict[str, dict[str, object]] = {"__metadata__": {"round": "1"}}
    offset = 0
    for key, shape in shapes.items():
        size = 8 * int(np.prod(shape))
        header[key] = {"dtype": "F64", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    words = json.dumps(header).encode()
    with (run / "model.safetensors").open("wb") as file:
        file.write(len(words).to_bytes(8, "little") + words)
        file.truncate(8 + len(words) + offset)  # sparse
    complaint = at_once(evaluate, run)
    assert "data, model" in complaint or "cannot be read: unable to mmap" in complaint


def test_a_model_of_whole_numbers_is_refused(run):
    save_file({"weight": torch.zeros(1, 12, dtype=torch.int64)}, run / "model.safetensors", {"round": "1"})
    assert "floating point" in at_once(evaluate, run)


@pytest.mark.parametrize("x", [None, torch.zeros(3), torch.zeros(1, 12), torch.zeros(12, dtype=torch.int64)])
def test_a_checkpoint_without_a_model_that_fits_is_refused_by_evaluate(run, x):
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoint")
    Checkpoint("r", 3, {}, {"g": torch.zeros(1)} | ({} if x is None else {"x": x})).write(run / "checkpoint")
    complaint = at_once(evaluate, run)
    assert ("no model yet" in complaint) if x is None else ("12 parameters" in complaint)


def test_a_checkpoint_of_absurd_size_is_no_model(run, monkeypatch):
    monkeypatch.setattr("byzdist.cli.evaluate.report._MAX_FACTS", 1 << 10)
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoint")
    large = Checkpoint("r", 9, {}, {"x": torch.zeros(12), "more": torch.zeros(10_000)})
    large.write(run / "checkpoint")
    assert "no model yet" in at_once(evaluate, run)
    Checkpoint("r", 8, {}, {"x": torch.zeros(12)}).write(run / "checkpoint")
    assert "model after round 8" in evaluate(run)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "[]",
        "7",
        '{"round": 0, "cohort": 3, "byzantine": 0, "bytes_up": 1, "loss": 1.0}',
        '{"round": "x", "cohort": [], "byzantine": 0, "bytes_up": 1, "loss": 1.0}',
        '{"round": 0, "cohort": [], "byzantine": [], "bytes_up": 1, "loss": 1.0}',
        '{"round": 0, "cohort": [], "byzantine": 0, "bytes_up": {}, "loss": 1.0}',
        '{"round": 0, "cohort": [], "byzantine": 0, "bytes_up": 1, "loss": "x"}',
        '{"round": 1' + "0" * 400 + ', "cohort": [], "byzantine": 0, "bytes_up": 1, "loss": 1.0}',
    ],
)
def test_plot_refuses_metrics_that_no_run_writes(run, tmp_path, line):
    (run / "metrics.jsonl").write_text(line + "\n" + '{"round": 1}\n')
    assert "line 1" in at_once(plotting.plot, [run], tmp_path / "p.png")


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_nothing_is_unpickled(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("model.safetensors", "model.pt", "run.json", "metrics.jsonl", "summary.json"):
        (run / file).write_bytes(pickle.dumps(Trap()))
    for path in (run / "checkpoint").glob("round-*"):
        path.write_bytes(pickle.dumps(Trap()))
    for act in (lambda: evaluate(run), lambda: plotting.plot([run], "p.png"), lambda: claim(run, experiment(), True)):
        try:
            act()
        except ConfigError:
            pass
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("place", ["", ".part"])
def test_the_file_for_scraping_follows_no_link(tmp_path, victim, place):
    (tmp_path / f"byzdist.prom{place}").symlink_to(victim)
    Prometheus(tmp_path / "byzdist.prom", "r", 3)
    assert (tmp_path / "byzdist.prom").is_file() and not (tmp_path / "byzdist.prom").is_symlink()


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null", "fifo", "."])
def test_metrics_for_scraping_do_not_take_the_place_of_a_device(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with pytest.raises(ConfigError, match="not a plain file"):
        Prometheus(tmp_path / path, "r", 3)


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device", "loop"])
def test_a_configuration_that_is_no_file_is_refused_at_once(tmp_path, victim, capsys, kind):
    plant(tmp_path / "config.yaml", kind, victim)
    started = time.monotonic()
    assert main(["run", str(tmp_path / "config.yaml")]) == 2
    assert time.monotonic() - started < 60 and "cannot read the configuration" in capsys.readouterr().err


def test_a_refused_folder_is_as_it_was(tmp_path, victim):
    leave_run(tmp_path / "run")
    plant(tmp_path / "run" / "model.pt", "link", victim)
    before = content(tmp_path / "run")
    at_once(claim, tmp_path / "run", experiment(), True)
    assert content(tmp_path / "run") == before
    (tmp_path / "run" / "model.pt").unlink()
    claim(tmp_path / "run", experiment(), True).lock.release()  # it is not locked any more
