import errno
import json
import logging
import os
import shutil
from collections import namedtuple

import pytest
import torch
import yaml

from byzdist import __version__
from byzdist.config.reading import dump, parse
from byzdist.errors import ConfigError
from byzdist.host.locks import Lock
from byzdist.runtime.experiment import prepare
from byzdist.runtime.identity import claim, identity
from byzdist.storage import folder as folders
from byzdist.storage.checkpoint import Checkpoint, file_name
from tests.support.cases import BASE, case
from tests.support.standins import failing


def experiment(tree=BASE, **changes):
    return prepare(parse(tree | changes), torch.device("cpu"))


def leave_run(folder, of=None, round_=10, run="r1", **changed):
    """Write what a run leaves that was killed some time after a round."""
    of = of or experiment()
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"run": run, "resumed_after": [4]}))
    (folder / "config.yaml").write_text(dump(of.config))
    if round_ is not None:
        facts = identity(of) | {"workers": 3, "life": 1} | changed
        Checkpoint(run, round_, facts, {"x": torch.zeros(2)}).write(folder / "checkpoint")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def resume(folder, of=None):
    found = claim(folder, of or experiment(), resume=True)
    found.lock.release()
    return found


def test_a_new_run_gets_an_empty_folder_and_a_name_of_its_own(tmp_path):
    one, two = (claim(tmp_path / n, experiment(), resume=False) for n in ("a", "b"))
    assert one.name != two.name and one.checkpoint is None and one.resumed_after == []
    assert (tmp_path / "a").is_dir()


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for resumed, complaint in ((False, "is not empty; name"), (True, "holds no run")):
        with pytest.raises(ConfigError, match=complaint):
            claim(tmp_path, experiment(), resumed)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_is_not_overwritten_without_the_word(tmp_path):
    leave_run(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="add --resume"):
        claim(tmp_path, experiment(), resume=False)
    assert content(tmp_path) == before


@pytest.mark.parametrize("round_", [None, 10])
def test_a_run_of_a_version_without_tasks_goes_on_as_the_classification_that_it_is(tmp_path, round_):
    said = identity(of := experiment())["config"]
    for key in ("task", "precision"):
        del said[key]
    leave_run(tmp_path, of, round_, config=said)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(said))
    assert (resume(tmp_path).checkpoint is None) == (round_ is None)
    for change in ({"precision": "bf16"}, {"task": {"name": "classification", "inputs": "tokens"}}):
        with pytest.raises(ConfigError, match="--resume: the configuration would change the run"):
            folders._compare(said, parse(BASE | change))


def test_a_run_goes_on_from_its_last_checkpoint(tmp_path):
    leave_run(tmp_path)
    found = resume(tmp_path)
    assert (found.name, found.resumed_after) == ("r1", [4, 10])
    assert found.checkpoint is not None and found.checkpoint.round == 10 and found.checkpoint.facts["workers"] == 3


def test_resuming_needs_a_folder():
    with pytest.raises(ConfigError, match="--resume: name the folder.*--out"):
        claim(None, experiment(), resume=True)


def test_nobody_else_gets_a_folder_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_LOCK_PATIENCE", 0.05)
    leave_run(tmp_path)
    with Lock(tmp_path / ".lock"), pytest.raises(ConfigError, match="a run is using"):
        resume(tmp_path)
    assert resume(tmp_path).name == "r1"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": "r1"}', '{"run": "r1", "resumed_after": 3}'])
def test_a_damaged_description_is_named(tmp_path, text):
    leave_run(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match="run.json"):
        resume(tmp_path)


CHANGES = {
    "seed": ({"seed": 6}, "seed was 5 and is 6"),
    "threads": ({"threads": 2}, "threads was 1 and is 2"),
    "dtype": ({"dtype": "float32"}, "dtype was 'float64' and is 'float32'"),
    "clients": ({"clients": {"count": 9, "byzantine": 3}}, "clients.byzantine was 4 and is 3"),
    "method": (case(step_size=0.31, clip=2.0), "method.clip was 1.0 and is 2.0; method.step_size was 0.3 and is 0.31"),
    "attack": (case("bit_flip"), "attack.name was 'none' and is 'bit_flip'"),
    "compression": (case(compression={"name": "rand_k", "ratio": 0.5}), "compression.name was 'identity'"),
    "replies": ({"transport": {"min_replies": 2}}, "transport.min_replies was 1 and is 2"),
    "draw": ({"transport": {"draw": "all"}}, "transport.draw was 'available' and is 'all'"),
    "rule": (
        {"aggregation": {"rule": "krum", "allow_breakdown": True}},
        "aggregation.rule.name was 'coordinate_median'",
    ),
    "data": ({"data": {**BASE["data"], "samples": 91}}, "data.samples was 90 and is 91"),
    "split": ({"data": {**BASE["data"], "split": "iid"}}, "data.split.name was 'shared' and is 'iid'"),
}


@pytest.mark.parametrize("change, complaint", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("round_", [10, None])
def test_what_would_change_the_mathematics_is_refused_by_its_keys(tmp_path, change, complaint, round_):
    leave_run(tmp_path, round_=round_)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=complaint):
        resume(tmp_path, experiment(**change))
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 10},
        {"rounds": 10_000},
        {"name": "other"},
        {"evaluate": {"every": 3, "samples": 20}},
        {"checkpoint": {"every": 7, "minutes": "none", "keep": 5}},
        {"transport": {"name": "collective", "deadline": 3.0}},
        {"transport": {"join_timeout": 90.0, "restarts": 0}},
        {"device": "auto"},
    ],
)
def test_what_leaves_the_mathematics_alone_may_change(tmp_path, change, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    leave_run(tmp_path)
    assert resume(tmp_path, experiment(**change)).checkpoint.round == 10


def test_fewer_rounds_than_there_were_are_refused(tmp_path):
    leave_run(tmp_path)
    with pytest.raises(ConfigError, match="rounds: .*round 10, beyond 9"):
        resume(tmp_path, experiment(rounds=9))


def libsvm(path, flipped=()):
    lines = [f"{1 if (i % 2) ^ (i in flipped) else -1} 1:{i} 2:{i * i % 7}" for i in range(40)]
    path.write_text("\n".join(lines) + "\n")
    return experiment(data={"name": "libsvm", "path": str(path)})


def test_data_may_move_but_not_change(tmp_path):
    leave_run(tmp_path / "run", libsvm(tmp_path / "first"))
    assert resume(tmp_path / "run", libsvm(tmp_path / "second")).checkpoint.round == 10
    with pytest.raises(ConfigError, match="data: "):
        resume(tmp_path / "run", libsvm(tmp_path / "third", flipped=[17]))


def trace(path, text):
    path.write_text(text)
    return experiment(clients={**BASE["clients"], "availability": {"name": "trace", "path": str(path)}})


def test_a_trace_may_move_but_not_change(tmp_path):
    leave_run(tmp_path / "run", trace(tmp_path / "first", "0 1 2 3 4\n5 6 7 8\n"))
    assert resume(tmp_path / "run", trace(tmp_path / "second", "0 1 2 3 4\n5 6 7 8\n")).checkpoint.round == 10
    with pytest.raises(ConfigError, match="data: "):
        resume(tmp_path / "run", trace(tmp_path / "third", "0 1 2 3 4 5\n6 7 8\n"))


def test_another_kind_of_device_is_refused(tmp_path):
    leave_run(tmp_path, device="cuda")
    with pytest.raises(ConfigError, match="device: .*cuda.*cpu"):
        resume(tmp_path)


def test_another_version_is_warned_about(tmp_path, caplog):
    leave_run(tmp_path, versions=identity(experiment())["versions"] | {"byzdist": "99.0"})
    assert resume(tmp_path).checkpoint.round == 10
    assert f"byzdist 99.0, and this is {__version__}" in caplog.text


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    leave_run(tmp_path, round_=10)
    leave_run(tmp_path, round_=20)
    (tmp_path / "checkpoint" / file_name(20)).write_bytes(b"torn")
    assert resume(tmp_path).checkpoint.round == 10
    assert [r.levelno for r in caplog.records if r.name == "byzdist.storage.checkpoint"] == [logging.WARNING]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_afresh(tmp_path):
    leave_run(tmp_path)
    (tmp_path / "checkpoint" / file_name(10)).write_bytes(b"torn")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="round-00000010.*start the run from the beginning"):
        resume(tmp_path)
    assert content(tmp_path) == before
    (tmp_path / "checkpoint" / file_name(10)).unlink()
    assert resume(tmp_path).checkpoint is None


def test_a_run_knows_its_lives(tmp_path):
    fresh = claim(tmp_path / "new", experiment(), resume=False)
    assert fresh.attempts == (0, None)
    leave_run(tmp_path / "run")
    found = resume(tmp_path / "run")
    assert found.attempts == (2, 1)
    found.checkpoint = None
    assert found.attempts == (2, None)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    leave_run(tmp_path / "one", run="r1")
    leave_run(tmp_path / "two", run="r2", round_=30)
    shutil.copy(tmp_path / "two" / "checkpoint" / file_name(30), tmp_path / "one" / "checkpoint")
    with pytest.raises(ConfigError, match="another run"):
        resume(tmp_path / "one")


def test_a_disk_without_room_is_named_before_anything_starts(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    vector = 8 * 12
    free = (2 * 3 + 2) * vector - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, free))
    with pytest.raises(ConfigError, match="--out: .*0 MB left.*checkpoint.keep"):
        claim(tmp_path / "a", experiment(), resume=False)
    free += 1
    claim(tmp_path / "b", experiment(), resume=False)
    with pytest.raises(ConfigError, match="--out: "):  # where clients remember something, that needs room as well
        claim(tmp_path / "c", experiment(case(name="momentum_sgd")), resume=False)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--out: cannot write to .*Not a directory"):
        claim(tmp_path / "file" / "run", experiment(), resume=False)
    with pytest.raises(ConfigError, match="--out: cannot write to .*File exists"):
        claim(tmp_path / "file", experiment(), resume=False)
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(ConfigError, match="--out: cannot write to .*Permission denied"):
            claim(tmp_path / "closed" / "run", experiment(), resume=False)
    leave_run(tmp_path / "run")
    complaint = pytest.raises(ConfigError, match="--out: cannot write to .*Read-only")
    with failing(Lock, "acquire", errno.EROFS), complaint:
        resume(tmp_path / "run")
