import re

from byzdist.config.reading import parse
from byzdist.problem.evaluation import measured_of
from byzdist.problem.tasks import TASKS
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.progress import Progress
from tests.support.cases import BASE
from tests.support.records import record


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_away_from_a_terminal_a_plain_line_comes_now_and_then(tmp_path, capsys):
    clock = Clock()
    config, metrics = parse({**BASE, "rounds": 100}), Metrics(tmp_path)
    with Progress(config, tmp_path, clock) as shown:
        for round_ in range(41):
            entry = record(round_, gap=0.125, accuracy=0.75, missing={1: "late"} if round_ == 10 else {})
            metrics.add(entry)
            shown.show(entry, metrics)
            clock.now += 0.5
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5  # in 20 s, one every 5 s
    assert lines[0] == ("round 0/100  gap 0.125  accuracy 0.75  up 10 B  down 30 B")
    assert "missing" not in lines[0] and "missing 1" in lines[1]
    assert re.match(r"round 40/100 .* up 410 B  down 1.2 kB  missing 1  left 30 s", lines[4]), lines[4]


def test_the_time_left_of_a_resumed_run_is_of_its_own_pace(tmp_path, capsys):
    clock = Clock()
    config, metrics = parse({**BASE, "rounds": 100}), Metrics(tmp_path)
    metrics.totals["rounds"] = 50
    with Progress(config, tmp_path, clock) as shown:
        for round_ in range(50, 61):
            entry = record(round_)
            metrics.add(entry)
            shown.show(entry, metrics)
            clock.now += 2
    assert capsys.readouterr().out.splitlines()[-1].endswith("left 82 s")


def test_the_end_says_how_and_where(tmp_path, capsys):
    metrics = Metrics(tmp_path)
    metrics.add(record(0, loss=0.25, gap=1e-9, accuracy=0.9, missing={1: "late"}, byzantine=3))
    with Progress(parse(BASE), tmp_path) as shown:
        shown.finish(metrics.close("finished"), metrics.better)
    out = capsys.readouterr().out
    assert re.match(r"finished after 1 rounds in \d+\.\d s \(\d+ rounds/s\)\n", out)
    assert "loss 0.25  gap 1e-09  accuracy 0.9" in out
    assert "up 10 B, down 30 B, 1 replies missing, 1 rounds with a Byzantine majority" in out
    assert out.splitlines()[-1] == f"  {tmp_path}"


def test_a_run_that_was_never_evaluated_has_an_end_as_well(tmp_path, capsys):
    metrics = Metrics(tmp_path)
    with Progress(parse(BASE), tmp_path) as shown:
        shown.finish(metrics.close("stopped"), metrics.better)
    assert capsys.readouterr().out.startswith("stopped after 0 rounds")


def test_a_tasks_own_metrics_are_shown_and_the_end_says_which_are_better_when_low(tmp_path, capsys):
    metrics = Metrics(tmp_path, better=measured_of(TASKS.build("regression", key="task")))
    entry = record(0, ("mae", "rmse"), loss=0.25, mae=0.4, rmse=0.5)
    metrics.add(entry)
    with Progress(parse(BASE), tmp_path) as shown:
        shown.show(entry, metrics)
        shown.finish(metrics.close("finished"), metrics.better)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "round 0/30  loss 0.25  mae 0.4  rmse 0.5  up 10 B  down 30 B"
    assert lines[2] == "  loss 0.25  mae 0.4 (lower is better)  rmse 0.5 (lower is better)"
