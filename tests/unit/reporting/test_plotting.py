"""The picture is made, with the right curves, from run folders as a run leaves them."""

import json
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from byzdist.errors import ConfigError
from byzdist.reporting.plotting import draw, plot
from tests.support.standins import watched

drawn: Any = draw  # whose artists' types are too wide for what a test asks of them


def write_run(folder, name="fake", rounds=40, every=10, accuracy=True, gap=True, rate=0.97, tail=""):
    folder.mkdir()
    (folder / "config.yaml").write_text(f"name: {name}\nseed: 0\n")
    lines = []
    for number in range(rounds):
        line = {"round": number, "kind": "sampled", "cohort": [1, 2, 3, 4], "byzantine": 3 if number % 7 == 2 else 1}
        line |= {"bytes_up": 100, "bytes_down": 200}
        if number % every == 0:
            line |= {"loss": 0.4 + rate**number, "grad_norm": 1.0}
            line |= {"gap": rate**number} if gap else {}
            line |= {"accuracy": 0.5} if accuracy else {}
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n" + tail)
    return folder


@pytest.fixture
def figures():
    """The figures that were saved, each the first argument of a call, so that a test can look into them."""
    with watched(Figure, "savefig") as saved:
        yield saved


def test_curves_and_marks_are_the_runs(tmp_path, figures):
    runs = [write_run(tmp_path / "a", name="one"), write_run(tmp_path / "b", name="two", rate=0.9, tail='{"round": 4')]
    out = tmp_path / "runs.png"
    plot(runs, out)
    assert out.read_bytes().startswith(b"\x89PNG")
    gap_rounds, gap_bytes, accuracy_rounds, _, marks, _ = figures[0][0].axes
    assert gap_rounds.get_yscale() == "log"
    assert [line.get_label() for line in gap_rounds.lines] == ["one", "two"]
    np.testing.assert_allclose(gap_rounds.lines[1].get_xdata(), [0, 10, 20, 30])
    np.testing.assert_allclose(gap_rounds.lines[1].get_ydata(), 0.9 ** np.array([0, 10, 20, 30]))
    np.testing.assert_allclose(gap_bytes.lines[0].get_xdata(), [100, 1100, 2100, 3100])
    np.testing.assert_allclose(accuracy_rounds.lines[0].get_ydata(), 0.5)
    np.testing.assert_allclose(marks.collections[0].get_positions(), [2, 9, 16, 23, 30, 37])
    styles = {(line.get_linestyle(), line.get_marker()) for line in gap_rounds.lines}
    assert len(styles) == 2  # to be told apart without colour


def test_the_rows_are_gap_or_loss_and_each_tasks_first_metric(tmp_path):
    runs = [write_run(tmp_path / name, gap=False, accuracy=name == "a") for name in ("a", "b")]
    (runs[1] / "run.json").write_text(json.dumps({"metrics": {"loss": "lower", "mae": "lower", "rmse": "lower"}}))
    text = (runs[1] / "metrics.jsonl").read_text().replace('"grad_norm": 1.0', '"mae": 0.25, "rmse": 9.0')
    (runs[1] / "metrics.jsonl").write_text(text)
    axes = drawn(runs).axes
    assert [axis.get_ylabel() for axis in axes[::2]] == ["loss f(x)", "accuracy", "mae (lower is better)", ""]
    np.testing.assert_allclose(axes[4].lines[0].get_ydata(), 0.25)
    assert [len(axis.lines) for axis in axes[:6:2]] == [2, 1, 1]


@pytest.mark.parametrize(
    "text", ["[", "[]", '{"metrics": 3}', '{"metrics": {"$x$": "lower"}}', '{"metrics": {"mae": []}}']
)
def test_a_description_that_no_run_writes_is_refused(tmp_path, text):
    run = write_run(tmp_path / "a")
    (run / "run.json").write_text(text)
    with pytest.raises(ConfigError, match="run.json"):
        plot([run], tmp_path / "runs.png")


def test_loss_stands_in_where_a_run_has_no_gap(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", gap=False, accuracy=False)]
    loss, _, accuracy, *_ = drawn(runs).axes
    assert loss.get_yscale() == "linear"
    assert [line.get_label() for line in loss.lines] == [str(run) for run in runs]  # equal names: the folders tell
    assert len(accuracy.lines) == 1


def test_gaps_at_and_below_zero_stay_on_the_logarithmic_axis(tmp_path):
    run = write_run(tmp_path / "a", accuracy=False)
    text = (
        (run / "metrics.jsonl").read_text().replace('"gap": 1.0', '"gap": -1e-16').replace('"round": 0', '"round": 5')
    )
    (run / "metrics.jsonl").write_text(text)
    axes = drawn([run]).axes
    assert len(axes) == 4
    assert axes[0].lines[0].get_ydata()[0] == 1e-17


def test_a_run_that_diverges_leaves_the_picture_and_the_others_their_room(tmp_path):
    good, bad = write_run(tmp_path / "a", name="one", rate=0.9), write_run(tmp_path / "b", name="two", rate=10.0)
    alone, both = (drawn(runs).axes[0].get_ylim() for runs in ([good], [good, bad]))
    assert alone[0] < 0.9**30 < 1 < alone[1] < 10
    assert both == pytest.approx(
        (0.9**30 / 3, 1e3)
    )  # of the other, 1e30 at the end, what is below 1,000 times the start


def test_a_cross_marks_where_a_diverged_run_leaves_the_picture(tmp_path):
    runs = [write_run(tmp_path / "a", name="one", rate=0.9), write_run(tmp_path / "b", name="two", rate=2.0)]
    (runs[1] / "summary.json").write_text('{"status": "diverged"}')
    gap, _, accuracy, *_ = drawn(runs).axes
    assert gap.lines[2].get_xydata().tolist() == [[10, 1e3]]  # 2^10 is above, and all that comes later
    assert accuracy.lines[2].get_xydata().tolist() == [[30, 0.5]]


def test_a_diverged_run_is_drawn_as_far_as_it_goes(tmp_path):
    run = write_run(tmp_path / "a", gap=False, accuracy=False)
    with (run / "metrics.jsonl").open("a") as file:
        line = {"round": 40, "cohort": [1], "byzantine": 0, "bytes_up": 1, "loss": None}
        file.write(json.dumps(line) + "\n" + json.dumps(line | {"round": 41}).replace("null", "NaN") + "\n")
    assert np.isnan(drawn([run]).axes[0].lines[0].get_ydata()[-2:]).all()


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("config.yaml", None, "holds no run"),
        ("metrics.jsonl", None, "holds no run"),
        ("config.yaml", "a: [", "holds no run"),
        ("metrics.jsonl", "", "no evaluation"),
        ("metrics.jsonl", "garbage\n{}\n", "line 1"),
        ("metrics.jsonl", "[1]\n{}\n", "line 1"),
        ("metrics.jsonl", '{"round": 1}\n', "bytes_up"),
    ],
)
def test_folders_that_are_no_runs_are_refused(tmp_path, name, content, word):
    run = write_run(tmp_path / "a")
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    with pytest.raises(ConfigError, match=word):
        plot([run], tmp_path / "runs.png")


@pytest.mark.parametrize("out", ["missing/runs.png", "runs.unknown", "runs"])
def test_a_picture_that_cannot_be_written_is_a_users_mistake(tmp_path, out):
    with pytest.raises(ConfigError, match="-o: cannot write"):
        plot([write_run(tmp_path / "a")], tmp_path / out)


def test_what_clients_claim_is_a_curve_in_a_band_and_marked(tmp_path):
    runs = [write_run(tmp_path / "a", name="measured", gap=False), write_run(tmp_path / "b", name="told", gap=False)]
    (runs[1] / "run.json").write_text(json.dumps({"metrics": {"loss": "lower", "gap": "lower", "mae": "lower"}}))
    lines = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line.pop("loss", None) is not None:
            told = {"median": 2.0 - line["round"] / 100, "spread": 0.25, "clients": 3}
            line["claimed"] = {"loss": told} if line["round"] else {"loss": told, "mae": told}
    (runs[1] / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    loss = drawn(runs).axes[0]
    assert [line.get_label() for line in loss.lines] == ["measured", "told (claimed)"]
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [2.0, 1.9, 1.8, 1.7])
    [band] = loss.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices} >= {(10.0, 1.65), (10.0, 2.15)}
    lines[10]["claimed"] = {"loss": {"median": "low", "spread": 0.1}}
    (runs[1] / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    with pytest.raises(ConfigError, match="round 10: claimed is not what a run writes"):
        plot(runs, tmp_path / "runs.png")
