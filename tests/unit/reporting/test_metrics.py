import errno
import json
import logging
import math
import threading
from typing import Any, cast

import pytest

from byzdist.errors import RunError
from byzdist.reporting.metrics import Metrics
from tests.support.records import record


def written(folder):
    text = (folder / "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(entry) for entry in text.splitlines()]


def test_a_line_is_written_with_its_round_whatever_the_run_does_then(tmp_path):
    metrics, threads = Metrics(tmp_path), threading.active_count()
    for round_ in range(3):
        metrics.add(record(round_))
        assert written(tmp_path) == [record(k).line() for k in range(round_ + 1)]
    assert threading.active_count() == threads
    metrics.close("finished")
    assert len(written(tmp_path)) == 3


def test_a_line_has_the_keys_that_scripts_know_in_their_order(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.add(record(0, full=True, f=1, seconds={"total": 0.5}, loss=2.0, accuracy=0.5))
    metrics.add(
        record(
            1,
            missing={4: "late"},
            byzantine=1,
            called="why",
            clipped=2,
            clip_level=0.25,
            f=1,
            events=["worker 3 joined"],
        )
    )
    metrics.add(record(2, postponed="too few"))
    metrics.add(record(3, full=True, untrusted="doubt"))
    metrics.close("finished")
    first, second, third, fourth = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert first == (
        '{"round":0,"kind":"full","cohort":[1,4,7],"replies":3,"missing":{},"byzantine":0,"clipped":0,"clip_level":null,"f":1,'
        '"bytes_up":10,"bytes_down":30,"seconds":{"total":0.5},"loss":2.0,"accuracy":0.5}'
    )
    assert second == (
        '{"round":1,"kind":"sampled","cohort":[1,4,7],"replies":2,"missing":{"4":"late"},"byzantine":1,"called":"why","clipped":2,'
        '"clip_level":0.25,"f":1,"bytes_up":10,"bytes_down":30,"news":["worker 3 joined"],"seconds":{}}'
    )
    assert third == (
        '{"round":2,"kind":"sampled","cohort":[1,4,7],"replies":3,"missing":{},"byzantine":0,"untrusted":"too few","clipped":0,'
        '"clip_level":null,"bytes_up":10,"bytes_down":30,"seconds":{}}'
    )
    assert fourth == (
        '{"round":3,"kind":"full","cohort":[1,4,7],"replies":3,"missing":{},"byzantine":0,"clipped":0,"clip_level":null,'
        '"untrusted":"doubt","bytes_up":10,"bytes_down":30,"seconds":{}}'
    )


def test_the_summary_is_the_last_evaluation_and_the_totals(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.add(record(0, loss=2.0, gap=1.0, accuracy=0.5))
    metrics.add(record(1, missing={4: "late", 7: "gone"}, byzantine=2, called="why", untrusted="why not"))
    metrics.add(record(2, called="again", loss=1.5, gap=0.5, accuracy=0.75, byzantine=1, bytes_up=5))
    metrics.add(record(3))
    summary = metrics.close("stopped")
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["seconds"] > 0 and summary["rounds_per_second"] == pytest.approx(4 / summary["seconds"])
    expected = {"status": "stopped", "loss": 1.5, "gap": 0.5, "accuracy": 0.75, "rounds": 4}
    expected |= {"bytes_up": 35, "bytes_down": 120, "missing": 2, "byzantine_majorities": 1}  # 2 of 3, not 1 of 3
    expected |= {"untrusted": 1, "called": 2}
    assert {key: value for key, value in summary.items() if "second" not in key} == expected


def test_a_tie_is_no_majority(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.add(record(0, cohort=[1, 2, 3, 4], byzantine=2))
    assert metrics.close("finished")["byzantine_majorities"] == 0


def test_numbers_that_json_has_no_word_for_become_null(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.add(record(0, loss=math.nan, seconds={"wait": math.inf, "total": 0.5}))
    metrics.close("failed")

    def refuse(word):
        raise AssertionError(word)

    (found,) = (
        json.loads(text, parse_constant=refuse) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()
    )
    assert found["loss"] is None and found["seconds"] == {"wait": None, "total": 0.5}
    assert json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)["loss"] is None


def test_a_resumed_run_goes_on_after_its_checkpoint(tmp_path):
    metrics = Metrics(tmp_path)
    for round_ in range(5):
        metrics.add(record(round_, loss=10.0 - round_))
    state = json.loads(json.dumps(metrics.state()))
    metrics.add(record(5, loss=0.0))
    metrics.add(record(6, loss=0.0))
    again = Metrics(tmp_path, state)
    again.add(record(5, loss=5.0))
    summary = again.close("finished")
    assert [entry["round"] for entry in written(tmp_path)] == [0, 1, 2, 3, 4, 5]
    assert (summary["rounds"], summary["bytes_up"], summary["loss"]) == (6, 60, 5.0)
    assert summary["seconds"] >= state["seconds"]


def test_a_full_disk_loses_no_line_once_there_is_room_again(tmp_path, caplog):
    metrics = Metrics(tmp_path)

    class Full:
        def __init__(self, file, room):
            self.file, self.room = file, room

        def write(self, text):
            if self.room == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = self.file.write(text[: self.room])
            self.room -= taken
            return taken

        def __getattr__(self, name):
            return getattr(self.file, name)

    metrics.sync()
    metrics._file = full = cast(Any, Full(metrics._file, room=40))  # the first line is cut
    with caplog.at_level(logging.ERROR, logger="byzdist"):
        for round_ in range(4):
            metrics.add(record(round_))
    assert sum("No space left" in message for message in caplog.messages) == 1
    with pytest.raises(OSError, match="lacks lines"):  # no checkpoint may count them
        metrics.sync()
    with pytest.raises(RunError, match="No space left"):
        metrics.close("finished")
    full.room = 10**6
    metrics.close("finished")
    assert [entry["round"] for entry in written(tmp_path)] == [0, 1, 2, 3]


def test_a_file_that_lost_lines_is_continued_after_its_last_whole_one(tmp_path, caplog):
    metrics = Metrics(tmp_path)
    for round_ in range(5):
        metrics.add(record(round_))
    state = metrics.state()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.truncate(state["size"] - 10)
    again = Metrics(tmp_path, state)
    again.add(record(5))
    again.close("finished")
    assert [entry["round"] for entry in written(tmp_path)] == [0, 1, 2, 3, 5]
    assert "lines are missing" in caplog.text
