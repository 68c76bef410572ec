"""byzdist.runtime.recording: what is evaluated and who is told, and that the stages of a round add up."""

import json

import pytest
import torch

from byzdist.config.reading import parse
from byzdist.reporting.metrics import Metrics
from byzdist.runtime.recording import Recorder, Stopwatch
from tests.support.cases import BASE
from tests.support.records import record


class Clock:
    """A clock that the test moves on."""

    now = 50.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_each_stage_is_counted_from_the_end_of_the_one_before_and_the_total_from_the_end_of_the_round_before(clock):
    watch, found = Stopwatch(clock), []
    for _ in range(2):
        for stage, seconds in (("request", 1.0), ("wait", 4.0), ("aggregate", 2.0)):
            clock.now += seconds
            watch.end(stage)
        clock.now += 0.5
        found.append(watch.end_round())
    assert found == [{"request": 1.0, "wait": 4.0, "aggregate": 2.0, "total": 7.5}] * 2
    assert list(found[0]) == ["request", "wait", "aggregate", "total"]


def test_what_is_due_is_evaluated_then_written_then_told(tmp_path, clock):
    order: list[object] = []

    def evaluate(x):
        order.append("evaluate")
        clock.now += 3.0
        return {"loss": float(x.sum())}

    def watcher(round_record, metrics):
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == metrics.totals["rounds"]
        order.append(("told", round_record.round))

    config, metrics = parse({**BASE, "rounds": 5, "evaluate": {"every": 2}}), Metrics(tmp_path)
    recorder = Recorder(
        config, metrics, evaluate, [watcher], [lambda round_record, x: order.append(("judged", float(x.sum())))]
    )
    watch = Stopwatch(clock)
    for round_ in range(2, 6):
        recorder.add(record(round_), torch.full((2,), float(round_)), watch)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("loss") for line in lines] == [4.0, None, 8.0, 10.0]  # the last round is due, too
    assert [line["seconds"] for line in lines] == [
        {"evaluate": 3.0, "total": 3.0},
        {"total": 0.0},
        *[{"evaluate": 3.0, "total": 3.0}] * 2,
    ]
    assert order[:5] == ["evaluate", ("told", 2), ("judged", 4.0), ("told", 3), ("judged", 6.0)]
    metrics.close("finished")
