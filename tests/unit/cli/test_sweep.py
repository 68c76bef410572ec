"""`byzdist sweep` refuses a mistake in any run before anything starts."""

import re
import threading

import pytest
import yaml

from byzdist.cli.main import main
from byzdist.sweeping.axes import Sweep
from byzdist.sweeping.folder import begun, write_index
from tests.support.cases import BASE


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**BASE, "transport": "local"}))
    return str(path)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["rounds=[3, 0]"], "run rounds=0: rounds: must be at least 1"),
        (["model=[logistic_regression, cnn]"], "run model=cnn: .*'cnn' wants images"),
        (["seeds=0..2"], "run seeds=0: seeds: unknown key"),
        (["seed=0..2", "--workers", "2"], "--workers: 2 processes, but with transport.name=local"),
        (["seed=0..2", "transport=star", "--jobs", "2"], "--jobs: 2 runs at a time, but only"),
        (["seed=0..2", "transport=star", "--workers", "10"], "10 processes for the 9 clients of run seed=0"),
        (["rounds=3"], "they make 0 runs"),
        (["seed"], "'seed': a setting has the form"),
    ],
)
def test_a_mistake_in_any_run_ends_with_2_and_starts_nothing(config, tmp_path, capsys, words, complaint):
    assert main(["sweep", config, *words, "--out", str(tmp_path / "study")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(complaint, said), said
    assert not (tmp_path / "study").exists()


def test_forks_that_would_lack_threads_or_show_a_secret_are_refused(config, tmp_path, capsys, monkeypatch):
    words = ["sweep", config, "seed=0..1", "--out", str(tmp_path / "study")]
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="mine")
    thread.start()
    try:
        assert main(words) == 2
        assert re.search(r"a module of yours has started threads \(.*mine", capsys.readouterr().err)
    finally:
        end.set()
        thread.join()
    monkeypatch.setenv("BYZDIST_SECRET", "x")
    assert (
        main([*words, "transport=star"]) == 2
        and "BYZDIST_SECRET: the workers would be forks" in capsys.readouterr().err
    )
    monkeypatch.setenv("RANK", "0")
    assert main(words) == 2 and "RANK: a sweep starts its processes itself" in capsys.readouterr().err


def test_a_table_of_a_sweep_counts_the_runs_that_are_not_there(config, tmp_path, capsys):
    sweep = Sweep({"base": BASE, "set": {"attack": "ipm"}, "grid": {"rounds": [1, 2], "seed": "0..1"}}, tmp_path)
    names = [member.name for member in sweep.members()]
    with begun(tmp_path / "study", sweep, names):
        rows = [{"folder": name, "status": "missing", "reason": ""} for name in names]
        write_index(tmp_path / "study", [rows[0] | {"status": "failed", "reason": "it was killed"}, *rows[1:]])
    words = ["--rows", "rounds", "--columns", "attack", "--value", "loss", "--format", "csv"]
    assert main(["table", str(tmp_path / "study"), *words]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "1,ipm,,,0,1 failed; 1 missing,",
        "2,ipm,,,0,2 missing,",
    ]
