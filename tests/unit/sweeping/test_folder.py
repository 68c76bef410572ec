"""How far a sweep's runs have come, by their folders alone."""

import json

import pytest
import yaml

from byzdist.config.reading import dump, parse
from byzdist.errors import ConfigError
from byzdist.sweeping.axes import Sweep
from byzdist.sweeping.checking import Planned
from byzdist.sweeping.folder import State, begun, check_same, load, reasons, state_of, write_index
from byzdist.sweeping.watching import Watch, rounds_done
from tests.support.cases import BASE


def run_in(folder, config=None, **summary):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "config.yaml").write_text(dump(parse(config or BASE)))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_runs_state_is_what_its_folder_shows(tmp_path):
    assert state_of(tmp_path / "nowhere").status == "missing"
    assert state_of(run_in(tmp_path / "a")).status == "unfinished"
    assert state_of(run_in(tmp_path / "b", status="stopped")).status == "unfinished"
    for status in ("finished", "diverged", "failed"):
        state = state_of(run_in(tmp_path / status, status=status, reason="why", rounds=3))
        assert (state.status, state.reason, state.summary["rounds"]) == (status, "why", 3)
    (tmp_path / "a" / "summary.json").write_text("[]")
    with pytest.raises(ConfigError, match="not what a run writes"):
        state_of(tmp_path / "a")


def test_a_folder_of_another_configuration_is_refused_by_name(tmp_path):
    config = parse(BASE)
    check_same(tmp_path / "new", config)
    check_same(run_in(tmp_path / "same"), config)
    run_in(tmp_path / "other", {**BASE, "rounds": 31})
    with pytest.raises(ConfigError, match="other' holds a run of another configuration: rounds was 31 and is 30"):
        check_same(tmp_path / "other", config)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.tex").write_text("years")
    with pytest.raises(ConfigError, match="thesis' is in the way"):
        check_same(tmp_path / "thesis", config)


def test_a_sweep_may_grow_and_nothing_else(tmp_path):
    def sweep(**grid):
        return Sweep({"base": BASE, "grid": grid}, tmp_path)

    def start(folder, swept):
        with begun(folder, swept, [member.name for member in swept.members()]):
            with pytest.raises(ConfigError, match="a sweep is using"), begun(folder, swept, []):
                pass

    start(tmp_path / "s", sweep(seed=[0, 1]))
    start(tmp_path / "s", sweep(seed=[0, 1, 2]))
    assert [member.name for member in load(tmp_path / "s").members()] == ["seed=0", "seed=1", "seed=2"]
    with pytest.raises(ConfigError, match="other runs, 'seed=2' for example"):
        start(tmp_path / "s", sweep(seed=[0, 1]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="mine' is not empty, and holds no sweep"):
        start(tmp_path / "mine", sweep(seed=[0]))
    assert yaml.safe_load((tmp_path / "s" / "sweep.yaml").read_text())["grid"] == {"seed": [0, 1, 2]}


def test_the_index_keeps_why_a_run_failed(tmp_path):
    assert reasons(tmp_path) == {}
    rows = [
        {"folder": "seed=0", "status": "finished", "reason": "", "seed": 0},
        {"folder": "seed=1", "status": "failed", "reason": 'it was ended by "SIGKILL", or so', "seed": 1},
    ]
    write_index(tmp_path, rows)
    assert reasons(tmp_path) == {"seed=1": 'it was ended by "SIGKILL", or so'}


def test_progress_is_the_last_complete_line(tmp_path):
    assert rounds_done(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n{"round": 1}\n{"rou')
    assert rounds_done(tmp_path) == 1


def test_the_time_left_follows_from_the_rounds_of_all_runs(tmp_path, capsys):
    config = parse({**BASE, "rounds": 100})
    runs = [Planned(f"seed={n}", {}, {}, config) for n in range(4)]
    (tmp_path / "seed=2").mkdir()
    clock = iter([0.0, 30.0, 30.0, 60.0, 60.0])
    with Watch(tmp_path, runs, runs[1:], lambda: next(clock)) as watch:  # the first one was done before
        watch.ended(runs[1], State("finished", "", {"status": "finished", "f1": 0.5, "rounds": 101, "seconds": 29.5}))
        (tmp_path / "seed=2" / "metrics.jsonl").write_text('{"round": 50}\n')
        watch.look(["seed=2"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "[2/4] seed=1  finished  f1 0.5  seconds 29.5  left 60 s"
    assert second == "2/4 runs  left 60 s", "150 of 300 rounds in 60 s"
