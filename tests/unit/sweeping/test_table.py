"""Tables against sums by hand, over made-up runs; and their five formats."""

import csv
import io
import json
import math

import pytest

from byzdist.cli.main import main
from byzdist.errors import ConfigError
from byzdist.sweeping.formats import FORMATS
from byzdist.sweeping.measured import Found, Metric, find_runs
from byzdist.sweeping.table import Request, tabulate
from tests.support.folders import run_folder

ACCURACY = Metric("accuracy")


def run(path, value=None, status="finished", lines=(), **settings):
    """Make a run's folder, with what a run leaves of its metrics."""
    folder = path / ",".join(f"{key}={setting}" for key, setting in settings.items())
    folder.mkdir()
    if status != "missing":
        (folder / "run.json").write_text(json.dumps({"metrics": {"loss": "lower", "accuracy": "higher"}}))
        (folder / "summary.json").write_text(json.dumps({"status": status, "accuracy": value, "loss": value}))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Found(folder, {key: str(setting) for key, setting in settings.items()})


def study(path, values):
    """Make runs by (rule, attack, step, seed)."""
    return [
        run(path, value if not isinstance(value, str) else None, value if isinstance(value, str) else "finished",
            rule=rule, attack=attack, step=step, seed=seed)
        for (rule, attack, step, seed), value in values.items()
    ]  # fmt: skip


def cells(runs, **request):
    table = tabulate(runs, Request(**{"rows": "rule", "columns": "attack", "value": ACCURACY, **request}))
    return table, table.cells


def test_a_cell_is_mean_and_standard_error(tmp_path):
    runs = study(tmp_path, {("krum", "ipm", 1, seed): value for seed, value in enumerate((0.5, 0.7, 0.9))})
    table, found = cells(runs)
    cell = found["krum", "ipm"]
    assert cell.mean == pytest.approx(0.7) and cell.error == pytest.approx(0.2 / math.sqrt(3))
    assert table.caption == "accuracy: mean ± standard error over seed."


def test_what_is_lost_is_counted_in_its_place(tmp_path):
    values = {0: 0.5, 1: "diverged", 2: "failed", 3: "missing", 4: 0.7, 5: "stopped"}
    _, found = cells(study(tmp_path, {("krum", "ipm", 1, seed): value for seed, value in values.items()}))
    cell = found["krum", "ipm"]
    assert cell.mean == pytest.approx(0.6)
    assert cell.lost == {"diverged": 1, "failed": 1, "missing": 1, "unfinished": 1}
    _, found = cells(study(tmp_path, {("mean", "ipm", 1, 0): "diverged"}))
    assert found["mean", "ipm"].mean is None and found["mean", "ipm"].lost == {"diverged": 1}


def test_the_best_is_chosen_by_the_mean_and_a_complete_place_comes_first(tmp_path):
    values = {
        **{("krum", "ipm", 0.1, seed): value for seed, value in enumerate((0.6, 0.8))},
        **{("krum", "ipm", 0.2, seed): value for seed, value in enumerate((0.9, 0.1))},
        **{("krum", "ipm", 0.3, seed): value for seed, value in enumerate((0.99, "diverged"))},
    }
    runs = study(tmp_path, values)
    table, found = cells(runs, best=("step",))
    assert found["krum", "ipm"].values == (0.6, 0.8) and found["krum", "ipm"].chosen == ("step=0.1",)
    assert table.caption.endswith("best of step, chosen by the highest mean of accuracy over seed.")
    table, found = cells(runs, best=("step",), rule=Metric("loss"))  # lower is better: the same numbers, another choice
    assert found["krum", "ipm"].chosen == ("step=0.2",) and "lowest mean of loss" in table.caption


def test_the_worst_comes_after_the_best_and_a_divergence_is_worse_than_any_number(tmp_path):
    values = {
        ("krum", "ipm", 1, 0): 0.9,
        ("krum", "ipm", 2, 0): 0.2,
        ("krum", "alie", 1, 0): 0.5,
        ("krum", "alie", 2, 0): 0.6,
        ("mean", "ipm", 1, 0): 0.1,
        ("mean", "alie", 1, 0): "diverged",
        ("mean", "ipm", 2, 0): 0.05,
        ("mean", "alie", 2, 0): "diverged",
    }
    table, found = cells(study(tmp_path, values), columns="seed", over=(), best=("step",), worst="attack")
    assert found["krum", "0"].values == (0.6,) and found["krum", "0"].chosen == ("attack=alie", "step=2")
    assert found["mean", "0"].mean is None and found["mean", "0"].lost == {"diverged": 1}
    assert table.caption == ("accuracy; best of step, chosen by the highest accuracy; worst over attack, the lowest.")


def test_a_number_may_be_the_best_of_a_run_or_that_of_a_round(tmp_path):
    lines = [{"round": n, "accuracy": value} for n, value in enumerate((0.1, 0.8, None, 0.6))]
    one = run(tmp_path, 0.6, lines=lines, rule="krum", attack="ipm")
    for at, expected in (("last", 0.6), ("best", 0.8), ("round=0", 0.1)):
        assert one.measure(Metric("accuracy", at)).value == expected
    assert one.measure(Metric("accuracy", "round=2")) == ("diverged", None), "a number that was not finite"
    with pytest.raises(ConfigError, match="not measured after round 9 .* the nearest is 3"):
        one.measure(Metric("accuracy", "round=9"))
    with pytest.raises(ConfigError, match="'f1' was not measured .* There are accuracy, loss"):
        one.measure(Metric("f1"))


def test_runs_are_compared_at_equal_cost(tmp_path):
    # Round 0 takes all 205 samples, each of the others 2 (8 + 5 + 8 + 8) gradients, 100 bytes and half a second.
    one = Found(run_folder(tmp_path / "one", [0.9, 0.5, 0.2]), {})
    for at, expected in (
        ("gradients=205", 0.9),
        (f"gradients={205 + 10 * 58 - 1}", 0.9),
        (f"gradients={205 + 10 * 58}", 0.5),
        ("bytes=2.1e3", 0.2),
        ("seconds=10.4", 0.5),
    ):
        assert one.measure(Metric.of("loss", at)).value == expected
    with pytest.raises(ConfigError, match="has spent 1365 gradients in all, less than 1366"):
        one.measure(Metric.of("loss@gradients=1366"))
    with pytest.raises(ConfigError, match="nothing was measured in .* before it had spent 99 bytes"):
        one.measure(Metric.of("loss", "bytes=99"))
    with pytest.raises(ConfigError, match="'metres=3' is none of last, best, round=N, gradients=N"):
        Metric.of("loss", "metres=3")
    assert [str(Metric.of("loss", at)) for at in ("bytes=2e3", "round=4")] == [
        "loss after 2e3 bytes",
        "loss after round 4",
    ]


@pytest.mark.parametrize(
    "request_, complaint",
    [
        ({"rows": "rul"}, "rul: the runs have no such setting. Did you mean 'rule'"),
        ({"columns": "rule"}, "rule: it has two places"),
        ({}, "step: the runs differ in it too"),
        ({"best": ("step",), "value": Metric("seconds")}, "no run says whether 'seconds' is better"),
    ],
)
def test_a_table_that_would_mix_or_guess_is_refused(tmp_path, request_, complaint):
    runs = study(tmp_path, {("krum", "ipm", 1, 0): 0.1, ("krum", "ipm", 2, 0): 0.2})
    with pytest.raises(ConfigError, match=complaint):
        cells(runs, **request_)


def test_every_format_has_every_cell(tmp_path):
    runs = study(
        tmp_path, {("a_b|c", "ipm", 1, 0): 0.5, ("a_b|c", "ipm", 1, 1): 0.7, ("krum", "alie", 1, 0): "diverged"}
    )
    table, _ = cells(runs)
    shown = {name: make(table) for name, make in FORMATS.items()}
    assert shown["text"].splitlines()[:3] == [
        "rule \\ attack  ipm        alie",
        "a_b|c          0.6 ± 0.1  no run",
        "krum           no run     — (1 diverged)",
    ]
    assert "| a_b\\|c | 0.6 ± 0.1 | no run |" in shown["markdown"]
    assert (
        "a\\_b|c & 0.6 $\\pm$ 0.1 & no run \\\\" in shown["latex"]
        and "krum & no run & --- (1 diverged) \\\\" in shown["latex"]
    )
    first, second = csv.DictReader(io.StringIO(shown["csv"]))
    assert (
        float(first["mean"]) == 0.6 and first["runs"] == "2" and second["mean"] == "" and second["lost"] == "1 diverged"
    )
    assert json.loads(shown["json"])["cells"][1]["lost"] == {"diverged": 1}


def test_the_command_works_on_any_runs_folders(tmp_path, capsys):
    for rule, seed, value in (("krum", 0, 0.25), ("krum", 1, 0.75), ("mean", 0, 0.5)):
        found = run(tmp_path, value, rule=rule, seed=seed)
        text = (
            f"name: any\nseed: {seed}\naggregation: {{rule: {{name: {rule}}}}}\nattack: {{name: ipm, epsilon: {0.5}}}\n"
        )
        (found.folder / "config.yaml").write_text(text)
    folders = sorted(str(path) for path in tmp_path.iterdir())
    words = ["--rows", "aggregation.rule", "--columns", "attack.name", "--value", "accuracy"]
    assert main(["table", *folders, *words, "--where", "aggregation.rule=krum"]) == 0
    assert "krum                            0.5 ± 0.25" in capsys.readouterr().out
    assert main(["table", str(tmp_path), *words]) == 2
    assert "holds neither a sweep nor a run" in capsys.readouterr().err
    assert main(["table", *folders, *words, "--at", "first"]) == 2
    assert len(find_runs([tmp_path / "rule=krum,seed=0"])) == 1


def test_a_table_of_one_key_has_one_column(tmp_path):
    values = {("krum", "ipm", 1, 0): 0.5, ("mean", "ipm", 1, 0): 0.7}
    table, found = cells(study(tmp_path, values), columns=None)
    assert table.rows == ("krum", "mean") and table.columns == ("accuracy",)
    assert found["mean", "accuracy"].values == (0.7,)
    assert FORMATS["text"](table).splitlines()[:2] == ["rule  accuracy", "krum  0.5"]
    assert json.loads(FORMATS["json"](table))["cells"][0].keys() == {
        *("rule", "mean", "standard_error", "runs", "lost", "chosen")
    }
