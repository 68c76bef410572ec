import errno
import threading
import time

import pytest
import safetensors.torch
import torch

from byzdist.config.schema import Checkpoints
from byzdist.errors import ConfigError, RunError
from byzdist.storage import checkpoint
from byzdist.storage.checkpoint import file_name, read_checkpoint, rounds
from byzdist.storage.saving import ServerSaver, WorkerSaver, snapshot
from byzdist.transport.base import Save
from byzdist.transport.wire import Stage
from tests.support.standins import failing


def saver(folder, every="none", minutes="none", keep=2, transport=None, sync=lambda: None, resumed=-1, **more):
    settings = Checkpoints(every=every, minutes=minutes, keep=keep)
    return ServerSaver(folder, "r", settings, {"fixed": 1}, transport, sync, resumed, **more)


def state(value):
    return lambda: ({"x": torch.full((3,), float(value))}, {"value": value})


def wait_for(condition, patience=10.0):
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def settle(mine):
    """Wait until no file of the server's is being written."""
    wait_for(lambda: mine._job is None or mine._job.writing.done())


@pytest.fixture
def gate(monkeypatch):
    """Hold back every write until the gate is opened."""
    opened = threading.Event()
    save_file = safetensors.torch.save_file

    def held(*arguments):
        assert opened.wait(10)
        save_file(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", held)
    return opened


def test_checkpoints_are_taken_every_so_many_rounds(tmp_path):
    mine = saver(tmp_path, every=3, keep=100)
    for round_ in range(1, 11):
        mine.after(round_, state(round_))
        settle(mine)  # so that none is put off
    assert list(rounds(tmp_path)) == [9, 6, 3]
    mine.finish(10, state(10))
    assert max(rounds(tmp_path)) == 10
    for round_, path in rounds(tmp_path).items():
        found = read_checkpoint(path)
        assert found.facts == {"fixed": 1, "value": round_}
        assert found.tensors["x"].tolist() == [round_] * 3


def test_checkpoints_are_taken_every_so_many_minutes(tmp_path):
    now = 1000.0
    mine = saver(tmp_path, minutes=0.5, clock=lambda: now)
    taken = []
    for round_ in range(1, 8):
        now += 10.0
        mine.after(round_, lambda round_=round_: taken.append(round_) or state(round_)())
        settle(mine)
    assert taken == [3, 6]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, gate):
    mine = saver(tmp_path, every=1)
    live = torch.zeros(3)
    mine.after(1, lambda: ({"x": live}, {}))
    live.fill_(7.0)  # training goes on
    asked = []
    mine.after(2, lambda: asked.append(2) or state(2)())
    assert not asked, "one at a time"
    gate.set()
    mine.finish(2, state(2))
    assert read_checkpoint(tmp_path / file_name(1)).tensors["x"].tolist() == [0.0] * 3
    assert read_checkpoint(tmp_path / file_name(2)).facts["value"] == 2


def test_the_end_is_saved_once(tmp_path):
    mine = saver(tmp_path)
    mine.finish(5, state(5))
    written = (tmp_path / file_name(5)).stat().st_mtime_ns
    saver(tmp_path, resumed=5).finish(5, state(6))
    assert (tmp_path / file_name(5)).stat().st_mtime_ns == written and list(rounds(tmp_path)) == [5]


def test_metrics_are_on_the_disk_before_the_checkpoint_counts(tmp_path):
    seen = []
    mine = saver(tmp_path, sync=lambda: seen.append(list(rounds(tmp_path))))
    mine.finish(5, state(5))
    assert seen == [[]]


def test_a_failure_is_told_once_and_the_next_one_is_tried(tmp_path):
    mine = saver(tmp_path, every=1)
    told = []
    with failing(checkpoint, "save_file", errno.ENOSPC):
        told.append(mine.after(1, state(1)))
        settle(mine)
        told.append(mine.after(2, state(2)) if told == [None] else None)
    assert mine.finish(2, state(2)) in ([], ["the checkpoint of round 2 could not be written: No space left on device"])
    assert [text for text in told if text] == [
        "the checkpoint of round 1 could not be written: No space left on device"
    ]
    assert max(rounds(tmp_path)) == 2


class Workers:
    """Workers that say what they are told to say."""

    def __init__(self):
        self.orders, self.left, self.missing, self.events = [], [1, 2], [], []

    def save(self, order):
        self.orders.append(order)

    def unsaved(self):
        return self.left

    def end_save(self):
        return self.missing


def test_a_checkpoint_counts_only_when_the_workers_have_saved_their_part(tmp_path):
    workers = Workers()
    mine = saver(tmp_path, every=5, transport=workers)
    mine.after(5, state(5))
    for round_ in (6, 7):
        mine.after(round_, state(round_))
    assert not rounds(tmp_path) and workers.orders == [Save(5, 0)]
    workers.left = []
    mine.after(8, state(8))
    wait_for(lambda: rounds(tmp_path))
    assert list(rounds(tmp_path)) == [5]
    assert read_checkpoint(tmp_path / file_name(5)).facts["value"] == 5
    for round_ in (9, 10, 11):
        mine.after(round_, state(round_))
        settle(mine)
    assert workers.orders[-1].oldest == 5, "what workers saved for an earlier round is not needed any more"


def test_workers_are_asked_again_but_not_all_the_time(tmp_path):
    workers = Workers()
    now = 0.0
    mine = saver(tmp_path, every=1, transport=workers, clock=lambda: now)
    for round_ in range(1, 101):
        mine.after(round_, state(round_))
        now += 0.01
    assert set(workers.orders) == {Save(1, 0)} and 4 <= len(workers.orders) <= 6


def test_a_worker_that_never_answers_does_not_keep_a_run_from_its_end(tmp_path):
    mine = saver(tmp_path, transport=Workers(), patience=0.05)
    assert mine.finish(3, state(3)) == []
    assert list(rounds(tmp_path)) == [3]


def test_a_part_that_does_not_come_is_named_in_the_checkpoint_and_told_once(tmp_path):
    workers = Workers()
    workers.left = []
    mine = saver(tmp_path, every=5, transport=workers, keep=9)
    for round_, workers.missing in ((5, [2]), (10, [2]), (15, [1, 2]), (20, [])):
        assert mine.after(round_, state(round_)) is None
        settle(mine)
        mine.after(round_, state(round_))
    assert [read_checkpoint(tmp_path / file_name(round_)).facts["missing"] for round_ in (5, 10, 15, 20)] == [
        [2],
        [2],
        [1, 2],
        [],
    ]
    assert workers.events == [
        "the checkpoint of round 5 lacks what the clients of workers [2] remember",
        "the checkpoint of round 15 lacks what the clients of workers [1] remember",
    ]


def test_workers_that_are_gone_do_not_keep_a_run_from_its_end(tmp_path):
    class Gone(Workers):
        def save(self, order):
            raise RunError("worker rank 2 is gone")

    assert saver(tmp_path, transport=Gone()).finish(3, state(3)) == [
        "the checkpoint of round 3 could not be written: worker rank 2 is gone"
    ]


def worker_saver(folder, rank=1, workers=2, run="r", attempts=(0, 0)):
    return WorkerSaver(folder, run, attempts, rank, workers)


def save_all(mine, round_, remembered, oldest=0):
    wait_for(lambda: mine.save(Save(round_, oldest), remembered) is not Stage.WRITING)
    return mine.save(Save(round_, oldest), remembered)


def test_a_worker_saves_the_state_of_the_first_order(tmp_path, gate):
    mine, live = worker_saver(tmp_path), {"method.momentum.0": torch.ones(2)}
    assert mine.save(Save(4, 0), live) is Stage.WRITING
    live["method.momentum.0"].fill_(9.0)
    assert mine.save(Save(4, 0), live) is Stage.WRITING
    gate.set()
    assert save_all(mine, 4, live) is Stage.SAVED
    assert worker_saver(tmp_path).load(4)["method.momentum.0"].tolist() == [1.0, 1.0]


def test_a_worker_tells_that_it_failed(tmp_path):
    with failing(checkpoint, "save_file", errno.ENOSPC):
        assert save_all(worker_saver(tmp_path), 4, {}) is Stage.FAILED


def test_a_worker_leaves_the_files_of_other_runs_alone(tmp_path, caplog):
    save_all(worker_saver(tmp_path, run="other"), 4, remembered([0]))
    content = (tmp_path / file_name(4, 1)).read_bytes()
    mine = worker_saver(tmp_path)
    assert save_all(mine, 4, {}) is Stage.FAILED
    assert file_name(4, 1) in caplog.text and "another run" in caplog.text and "--out" in caplog.text
    assert save_all(mine, 5, {}, oldest=5) is Stage.SAVED
    assert (tmp_path / file_name(4, 1)).read_bytes() == content


def remembered(clients, more=0.0):
    return {f"method.momentum.{client}": torch.full((2,), client + more) for client in clients}


def test_what_a_life_saved_without_a_checkpoint_does_not_count_in_a_later_one(tmp_path):
    save_all(
        worker_saver(tmp_path, 3, 3, attempts=(0, None)), 20, remembered([2, 5], more=0.5)
    )  # and then all was killed
    for rank in (1, 2):
        save_all(worker_saver(tmp_path, rank, 2, attempts=(1, 0)), 20, remembered(range(rank - 1, 6, 2)))
    found = worker_saver(tmp_path, 3, 3, attempts=(2, 1)).load(20)
    assert {key: tensor.tolist() for key, tensor in found.items()} == {
        "method.momentum.2": [2.0] * 2,
        "method.momentum.5": [5.0] * 2,
    }


@pytest.mark.parametrize("before, now", [(2, 2), (2, 3), (5, 2), (1, 4)])
def test_clients_find_what_they_remember_wherever_they_live_now(tmp_path, before, now):
    for rank in range(1, before + 1):
        save_all(worker_saver(tmp_path, rank, before), 8, remembered(range(rank - 1, 10, before)))
    for rank in range(1, now + 1):
        found = worker_saver(tmp_path, rank, now).load(8)
        assert {key: tensor.tolist() for key, tensor in found.items()} == {
            key: tensor.tolist() for key, tensor in remembered(range(rank - 1, 10, now)).items()
        }


def test_a_part_that_came_after_its_checkpoint_is_not_used(tmp_path):
    for rank in (1, 2):
        save_all(worker_saver(tmp_path, rank), 8, remembered(range(rank - 1, 4, 2)))
    for workers, rank, found in ((2, 1, {0, 2}), (2, 2, set()), (1, 1, {0, 2}), (3, 2, set()), (3, 3, {2})):
        mine = WorkerSaver(tmp_path, "r", (0, 0), rank, workers, missing=[2])
        assert mine.load(8).keys() == {f"method.momentum.{client}" for client in found}, (workers, rank)


def test_nothing_is_found_of_another_round_or_run(tmp_path):
    save_all(worker_saver(tmp_path, 1, 1), 8, remembered([0]))
    assert worker_saver(tmp_path, 1, 1).load(9) == {}
    assert worker_saver(tmp_path, 1, 1, run="other").load(8) == {}


def test_a_snapshot_reuses_its_room_and_shares_nothing(tmp_path):
    buffers: dict[str, torch.Tensor] = {}
    live = torch.arange(6.0).view(2, 3).t()
    first = snapshot({"x": live}, buffers)["x"]
    place = first.data_ptr()
    live.fill_(1.0)
    assert first.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert snapshot({"x": live}, buffers)["x"].data_ptr() == place
    assert snapshot({"y": live}, buffers).keys() == {"y"}
    assert snapshot({"x": live.double()}, buffers)["x"].dtype == torch.float64


def test_what_an_earlier_version_wrote_of_clients_is_refused_by_name(tmp_path):
    mine = worker_saver(tmp_path)
    assert save_all(mine, 4, {"state.0": torch.ones(2)}) is Stage.SAVED
    with pytest.raises(
        ConfigError, match=r"--resume: .*round-00000004.worker-1.*earlier byzdist.*go on with that version"
    ):
        worker_saver(tmp_path).load(4)
