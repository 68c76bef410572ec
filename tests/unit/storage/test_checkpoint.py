import errno
import json
import os
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from byzdist.errors import ConfigError
from byzdist.host import files
from byzdist.storage import checkpoint
from byzdist.storage.checkpoint import (
    Checkpoint,
    Damaged,
    file_name,
    newest,
    owner,
    prune,
    prune_worker,
    read_checkpoint,
    remove_parts,
    rounds,
)
from tests.support.standins import failing

FACTS = {"metrics": {"size": 12, "last": {"loss": 0.1 + 0.2}}, "known": [1, 5]}


def make(round_=120, run="a" * 32, d=5):
    generator = np.random.default_rng(round_)
    tensors = {"x": torch.from_numpy(generator.standard_normal(d)), "g": torch.arange(d, dtype=torch.float32)}
    return Checkpoint(run, round_, FACTS, tensors)


def assert_same(one, other):
    assert (one.run, one.round, one.facts) == (other.run, other.round, other.facts)
    assert one.tensors.keys() == other.tensors.keys()
    for key, tensor in one.tensors.items():
        assert tensor.dtype == other.tensors[key].dtype and torch.equal(tensor, other.tensors[key])


@pytest.mark.parametrize("tensors", [{}, {"empty": torch.zeros(0)}, {"a": torch.full((2, 3), torch.nan)}])
def test_what_is_read_is_what_was_written(tmp_path, tensors):
    Checkpoint("r", 3, FACTS, tensors).write(tmp_path)
    found = read_checkpoint(tmp_path / file_name(3))
    assert found.facts == FACTS and found.tensors.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found.tensors[key].numpy().tobytes() == tensor.numpy().tobytes()


def test_values_come_back_bit_for_bit_and_others_can_read_the_file(tmp_path):
    make().write(tmp_path)
    assert_same(read_checkpoint(tmp_path / file_name(120)), make())
    assert torch.equal(load_file(tmp_path / file_name(120))["x"], make().tensors["x"])


def test_every_truncation_is_noticed(tmp_path):
    make().write(tmp_path)
    path = tmp_path / file_name(120)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            read_checkpoint(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(Damaged):
        read_checkpoint(path)


def test_a_flipped_bit_in_any_byte_is_noticed(tmp_path):
    make(d=2).write(tmp_path)
    path = tmp_path / file_name(120)
    whole = path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position + position // 8) % 8  # each bit of each byte of a word, in turn
        path.write_bytes(flipped)
        try:
            found = read_checkpoint(path)
        except Damaged:
            continue
        # Only blanks between the header's words, and the order of its keys, mean nothing.
        assert_same(found, make(d=2))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_checkpoint(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("file") / file_name(1)
    path.write_bytes(content)
    with pytest.raises(Damaged):
        read_checkpoint(path)


def test_a_file_of_another_kind_is_no_checkpoint(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / file_name(1))
    with pytest.raises(Damaged):
        read_checkpoint(tmp_path / file_name(1))
    save_file({"x": torch.zeros(3)}, tmp_path / file_name(1), {"byzdist": "[]", "format": "1"})
    with pytest.raises(Damaged):
        read_checkpoint(tmp_path / file_name(1))
    with pytest.raises(Damaged):
        read_checkpoint(tmp_path / "nothing")


def test_a_swap_of_two_values_is_noticed(tmp_path):
    make().write(tmp_path)
    path = tmp_path / file_name(120)
    raw = bytearray(path.read_bytes())
    raw[-8:], raw[-16:-8] = raw[-16:-8], raw[-8:]
    path.write_bytes(raw)
    with pytest.raises(Damaged, match="checksum"):
        read_checkpoint(path)


def test_a_newer_format_is_refused_and_stays_where_it_is(tmp_path):
    make(100).write(tmp_path)
    save_file({"x": torch.zeros(3)}, tmp_path / file_name(200), {"byzdist": '{"format": 3}', "format": "3"})
    with pytest.raises(ConfigError, match="format 3.*up to 2.*version"):
        newest(tmp_path, "a" * 32)
    assert list(rounds(tmp_path)) == [200, 100]


def test_the_one_before_a_damaged_one_is_used(tmp_path, caplog):
    for round_ in (5, 30, 200):
        make(round_).write(tmp_path)
    (tmp_path / file_name(200)).write_bytes((tmp_path / file_name(200)).read_bytes()[:-1])
    found = newest(tmp_path, "a" * 32)
    assert found is not None
    assert_same(found, make(30))
    assert "round-00000200" in caplog.text and "damaged" in caplog.text
    assert list(rounds(tmp_path)) == [30, 5]


def test_where_all_are_damaged_nothing_is_touched_and_it_is_said_what_to_do(tmp_path):
    assert newest(tmp_path, "a" * 32) is None
    (tmp_path / file_name(1)).write_bytes(b"")
    (tmp_path / file_name(2)).write_bytes(b"torn")
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=f"--resume: .*{file_name(1)}, {file_name(2)}.*remove these files to start"
        ):
            newest(tmp_path, "a" * 32)
        assert list(rounds(tmp_path)) == [2, 1]
    for round_, path in rounds(tmp_path).items():
        path.rename(tmp_path / f"round-{round_:08}.damaged")  # as they are called once an older one was used
    with pytest.raises(ConfigError, match="round-00000001.damaged"):
        newest(tmp_path, "a" * 32)
    for path in tmp_path.iterdir():
        path.unlink()
    assert newest(tmp_path, "a" * 32) is None


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_file_that_cannot_be_read_now_is_not_taken_for_damaged(tmp_path, number):
    make(100).write(tmp_path)
    make(200).write(tmp_path)
    complaint = pytest.raises(ConfigError, match=f"{file_name(200)}.*{os.strerror(number)}")
    with failing(checkpoint, "safe_open", number), complaint:
        newest(tmp_path, "a" * 32)
    found = newest(tmp_path, "a" * 32)
    assert found is not None and found.round == 200
    (tmp_path / file_name(300)).mkdir()
    with pytest.raises(ConfigError, match=file_name(300)):
        newest(tmp_path, "a" * 32)


def test_a_checkpoint_of_another_run_is_refused_and_stays_where_it_is(tmp_path):
    make(100).write(tmp_path)
    make(200, run="b" * 32).write(tmp_path)
    with pytest.raises(ConfigError, match="round-00000200.*another run"):
        newest(tmp_path, "a" * 32)
    assert_same(read_checkpoint(tmp_path / file_name(200)), make(200, run="b" * 32))


def test_the_newest_are_kept(tmp_path):
    for round_ in (9, 10, 99_999_999, 123_456_789):
        make(round_).write(tmp_path)
        make(round_).write(tmp_path, worker=1)
    assert list(rounds(tmp_path)) == [123_456_789, 99_999_999, 10, 9]
    assert prune(tmp_path, 2) == 99_999_999
    assert list(rounds(tmp_path)) == [123_456_789, 99_999_999]
    assert prune(tmp_path, 5) == 99_999_999
    assert len(list(tmp_path.glob("*.worker-1.*"))) == 4
    assert prune(tmp_path / "nowhere", 1) is None


def test_a_worker_removes_its_old_files_and_those_of_ranks_that_are_no_more(tmp_path):
    for worker in range(1, 8):
        for round_ in (10, 20, 30):
            make(round_).write(tmp_path, worker)
    make(10).write(tmp_path)
    make(11, run="other").write(tmp_path, 2)
    (tmp_path / file_name(12, 2)).write_bytes(b"torn")
    (tmp_path / (file_name(13, 2) + files.SUFFIX)).write_bytes(b"half")
    everything = {path.name for path in tmp_path.iterdir()}
    prune_worker(tmp_path, "a" * 32, 2, 3, oldest=20)  # ranks 2 and 5 of seven, now that there are three
    gone = {file_name(10, 2), file_name(10, 5), file_name(12, 2), file_name(13, 2) + files.SUFFIX}
    assert {path.name for path in tmp_path.iterdir()} == everything - gone


def test_whose_a_file_is_stands_in_it(tmp_path):
    make(run="mine").write(tmp_path)
    (tmp_path / file_name(1)).write_bytes(b"torn")
    save_file({"x": torch.zeros(3)}, tmp_path / file_name(2))
    assert [owner(tmp_path / file_name(round_)) for round_ in (120, 1, 2, 3)] == ["mine", None, None, None]


def test_what_was_left_half_written_is_removed_and_nothing_else(tmp_path):
    make().write(tmp_path)
    (tmp_path / (file_name(130) + files.SUFFIX)).write_bytes(b"half")
    (tmp_path / "notes.part").write_text("somebody's")
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.part", file_name(120)]


@contextmanager
def no_file_above(size):
    """Have the system cut files short, as a disk that becomes full does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FAILURES = {
    "half": (lambda: no_file_above(100), "File too large"),
    "fsync": (lambda: failing(os, "fsync", errno.ENOSPC), "No space"),
    "replace": (lambda: failing(os, "replace", errno.ENOSPC), "No space"),
}


@pytest.mark.parametrize(("failure", "complaint"), FAILURES.values(), ids=FAILURES)
def test_a_failed_write_leaves_what_was_there(tmp_path, failure, complaint):
    make().write(tmp_path)
    before = (tmp_path / file_name(120)).read_bytes()
    with failure(), pytest.raises(OSError, match=complaint):
        make(120, run="other").write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file_name(120)]
    assert (tmp_path / file_name(120)).read_bytes() == before


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    replace, fsync = os.replace, os.fsync

    def note_fsync(handle):
        events.append(("sync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def note_replace(old, new):
        events.append(("name", str(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    files.write_text(tmp_path / "a", "text")
    part, path = str(tmp_path / f"a{files.SUFFIX}"), str(tmp_path / "a")
    assert events == [("sync", part), ("name", path), ("sync", str(tmp_path))]


def test_facts_are_json_so_that_nothing_is_unpickled(tmp_path):
    make().write(tmp_path)
    raw = (tmp_path / file_name(120)).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["byzdist"])["round"] == 120
    with pytest.raises(TypeError):
        Checkpoint("r", 1, {"thing": object()}, {}).write(tmp_path)
