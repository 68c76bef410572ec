"""What a picture shows is what the metrics say: means, groups, facets, axes, heat maps, timelines."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

from byzdist.cli.main import main
from byzdist.errors import ConfigError
from byzdist.reporting.pictures.curves import curve, groups
from byzdist.reporting.pictures.heat import cell_text, heat
from byzdist.reporting.pictures.history import histories, read_history
from byzdist.reporting.pictures.settings import differing, ordered, values
from byzdist.reporting.pictures.style import look
from byzdist.reporting.pictures.timeline import timeline
from byzdist.reporting.plotting import View, draw
from tests.support.folders import grid, run_folder

close: Any = np.testing.assert_allclose
drawn: Any = draw  # whose artists' types are too wide for what a test asks of them


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return grid(tmp_path_factory.mktemp("grid") / "sweep", diverging=("mean", "ipm", 2))


def test_a_curve_is_the_mean_over_seeds_with_one_standard_error(tmp_path):
    losses = [[1.0, 0.5, 0.3], [1.0, 0.7, 0.3], [1.0, 0.9, 0.0]]
    runs = [
        read_history(run_folder(tmp_path / str(s), each, settings={"seed": s, "name": f"s{s}"}))
        for s, each in enumerate(losses)
    ]
    [(label, group)] = groups(runs).items()
    found = curve(label, group, "loss", "rounds")
    assert label == "s0" and found.runs == 3 and not found.claimed and not found.diverged
    close(found.x, [0, 10, 20])
    close(found.y, [1, 0.7, 0.2])
    # Standard deviations with n - 1: of 0.5, 0.7, 0.9 it is 0.2, of 0.3, 0.3, 0 it is √0.03.
    close(found.error, [0, 0.2 / 3**0.5, 0.1])
    assert curve(label, group[:1], "loss", "rounds").error is None


def test_a_curve_ends_where_the_first_of_its_runs_ends(tmp_path):
    folders = [
        run_folder(tmp_path / "a", [1.0, 0.5, 0.25, 0.1]),
        run_folder(tmp_path / "b", [1.0, 9.0], "diverged", {"seed": 1}),
    ]
    found = curve("", histories(folders), "loss", "rounds")
    close([found.x, found.y], [[0, 10], [1, 4.75]])
    assert (found.diverged, found.runs) == (1, 2)


def test_the_axes_are_rounds_gradients_bytes_and_seconds(tmp_path):
    run = read_history(
        run_folder(tmp_path / "a", [1.0, 0.5], lines={3: {"kind": "full", "bytes_up": 1000, "cohort": [0, 1]}}, every=5)
    )
    # A full round takes all samples: 100 + 5 + 50 + 50, or 100 + 5 of two clients. A sampled one takes twice eight of each client,
    # of client 1 twice the five that it has.
    full, fewer, sampled = 205, 105, 2 * (8 + 5 + 8 + 8)
    expected: dict[Any, list[float]] = {
        "rounds": [0, 5],
        "gradients": [full, full + fewer + 4 * sampled],
        "bytes": [100, 1500],
        "seconds": [0.5, 3],
    }
    for axis, at in expected.items():
        close(curve("", [run], "loss", axis).x, at)


def test_local_steps_count_each_mini_batch(tmp_path):
    folder = run_folder(tmp_path / "a", [1.0, 0.5], settings={"method.name": "local_steps"}, every=2)
    described = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(described | {"method": {"batch_size": 8, "steps": 3}}))
    close(curve("", [read_history(folder)], "loss", "gradients").x, [3 * 29, 3 * 3 * 29])  # 8 + 5 + 8 + 8 of the cohort


def test_gradients_that_a_folder_does_not_tell_are_refused(tmp_path):
    own = read_history(run_folder(tmp_path / "a", [1.0], settings={"method.name": "mine:Method"}))
    with pytest.raises(ConfigError, match="how many gradients 'mine:Method' takes is not known"):
        curve("", [own], "loss", "gradients")
    private = run_folder(tmp_path / "b", [1.0])
    (private / "clients.csv").unlink()
    with pytest.raises(ConfigError, match="clients.csv does not say"):
        curve("", [read_history(private)], "loss", "gradients")


def test_the_keys_that_differ_are_found_and_spelled(sweep, tmp_path):
    runs = histories([sweep])
    assert len(runs) == 12 and differing(runs) == ["aggregation.rule", "attack"]
    assert ordered(values(runs, "aggregation.rule")) == ["krum", "mean"]
    folders = [
        run_folder(tmp_path / str(tau), [1.0], settings={"rule.name": "cclip", "rule.tau": tau}) for tau in (10.0, 2)
    ]
    folders.append(run_folder(tmp_path / "c", [1.0], settings={"rule.name": "krum", "pre": [{"name": "nnm", "f": 1}]}))
    three = histories(folders)
    assert differing(three) == ["rule", "pre"]
    assert values(three, "rule") == ["cclip (tau=10)", "cclip (tau=2)", "krum"]
    assert values(three, "pre")[2] == "nnm (f=1)"
    assert ordered(["10", "2", "none", "0.5"]) == ["0.5", "2", "10", "none"]
    with pytest.raises(ConfigError, match=r"aggregation\.ruel: no run has this key. Did you mean 'aggregation.rule'"):
        values(runs, "aggregation.ruel")


def test_runs_that_differ_in_seed_only_are_one_curve(sweep):
    found = groups(histories([sweep]))
    assert {label: len(runs) for label, runs in found.items()} == {
        f"rule={rule}, attack={attack}": 3 for rule in ("krum", "mean") for attack in ("alie", "ipm")
    }
    assert {label: len(runs) for label, runs in groups(histories([sweep]), ["attack"]).items()} == {
        "attack=alie": 6,
        "attack=ipm": 6,
    }


def test_facets_are_the_cells_of_a_sweep_with_the_same_axes(sweep):
    figure = drawn([sweep], View(y=("loss",), facet=("aggregation.rule", "attack")))
    panels = figure.axes
    assert len(panels) == 4
    for axes, (i, j) in zip(panels, itertools.product(range(2), range(2)), strict=True):
        gone = (i, j) == (1, 1)
        curve_, *ends = axes.lines
        expected = [0.9, 0.5] if gone else [0.9, 0.5, 0.1 * i + 0.2 * j + 0.01]
        close(curve_.get_ydata(), expected, err_msg=f"{i} {j}")
        assert [end.get_xydata().tolist() for end in ends] == ([[[10.0, 0.5]]] if gone else [])
        assert [text.get_text() for text in axes.texts] == (["1 of 3"] if gone else [])
    assert [axes.get_title() for axes in panels[:2]] == ["attack: alie", "attack: ipm"]
    assert [axes.get_ylabel().split("\n")[0] for axes in panels[::2]] == ["rule: krum", "rule: mean"]
    assert panels[0].get_ylim() == panels[3].get_ylim() and panels[0].get_xlim() == panels[3].get_xlim()


def test_the_facets_axes_have_room_for_all_of_them(tmp_path):
    run_folder(tmp_path / "a", [1.0, 0.9], "diverged", {"attack.name": "a"}, every=1)
    run_folder(tmp_path / "b", [1.0, 0.2], settings={"attack.name": "b"}, every=1)
    run_folder(tmp_path / "c", [1.0, 1.8], settings={"attack.name": "c"}, every=1)
    figure = drawn([tmp_path], View(y=("loss",), facet=("attack",)))
    first, _, last = figure.axes
    assert first.get_ylim() == last.get_ylim() and first.get_ylim()[0] < 0.2 < 1.8 < first.get_ylim()[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["diverged"]


def test_a_map_of_cells_without_a_value_is_drawn(tmp_path):
    run_folder(tmp_path / "a", [1.0, None], "diverged", {"attack.name": "a", "rule.name": "x"}, every=1)
    run_folder(tmp_path / "b", [1.0, None], "diverged", {"attack.name": "b", "rule.name": "y"}, every=1)
    figure = drawn([tmp_path], View(heat=("rule", "attack")))
    figure.draw_without_rendering()
    [axes] = figure.axes
    assert [text.get_text() for text in axes.texts] == ["1 of 1 diverged", "no run", "no run", "1 of 1 diverged"]


def test_a_mean_over_more_than_seeds_says_so(sweep):
    figure = drawn([sweep], View(y=("accuracy",), x="seconds", group=("attack",)))
    [axes] = figure.axes  # one axis, and no strip, because no cohort has a Byzantine majority
    assert figure.get_suptitle() == "means over aggregation.rule and seeds"
    close(axes.lines[0].get_ydata(), [0.1, 0.5, 1 - (0.05 + 0.01)])
    close(axes.lines[0].get_xdata(), [0.5, 5.5, 10.5])


def test_the_cells_of_a_heat_map_are_last_values(sweep):
    found = heat(histories([sweep]), ("aggregation.rule", "attack"), "loss")
    assert (found.rows, found.columns) == (["krum", "mean"], ["alie", "ipm"])
    close(found.mean, [[0.01, 0.21], [0.11, 0.305]])  # of the diverged cell the two that did not
    close(found.error[0, 0], 0.01 / 3**0.5)
    assert found.diverged.tolist() == [[0, 0], [0, 1]] and (found.runs == 3).all()
    assert cell_text(found, 0, 0) == "0.01 ± 0.006" and cell_text(found, 1, 1) == "0.305 ± 0.005\n1 of 3 diverged"
    axes, bar = drawn([sweep], View(y=("loss",), heat=("aggregation.rule", "attack"))).axes
    close(axes.images[0].get_array(), found.mean)
    assert [text.get_text() for text in axes.texts] == [cell_text(found, i, j) for i in range(2) for j in range(2)]
    assert bar.get_ylabel() == "last loss f(x)"


def test_the_timeline_counts_what_happened(tmp_path):
    lines = {
        1: {"byzantine": 3, "clipped": 2},
        2: {"missing": {"1": "late", "2": "late"}, "clipped": 1},
        4: {"kind": "full", "clip_level": None, "untrusted": "2 of 4 replies"},
    }
    folder = run_folder(tmp_path / "a", [1.0, 0.5], lines=lines, every=5)
    found = timeline(read_history(folder))
    close(found.cohort, [np.nan, 4, 4, 4, np.nan, 4])
    close(found.byzantine, [np.nan, 0.75, 0.25, 0.25, np.nan, 0.25])
    close(found.missing, [0, 0, 2, 0, 0, 0])
    close(found.clipped, [np.nan, 0.5, 0.5, 0, np.nan, 0])
    assert (found.full.tolist(), found.majority.tolist(), found.untrusted.tolist()) == ([0, 4], [1], [4])
    *panels, marks = drawn([folder], View(timeline=True)).axes
    assert [axes.get_ylabel() for axes in panels] == [
        "cohort",
        "Byzantine\nshare",
        "missing\nreplies",
        "clipped\nshare",
    ]
    close(panels[2].lines[0].get_ydata(), found.missing)
    assert [list(strip.get_positions()) for strip in marks.collections] == [[0, 4], [1], [4]]


def test_the_parts_of_a_long_timeline_are_equally_wide(tmp_path):
    folder = run_folder(tmp_path / "a", [1.0, 0.5], every=300)
    line = drawn([folder], View(timeline=True)).axes[2].lines[0]
    assert set(np.diff(line.get_xdata())[:-1]) == {2}  # 301 rounds; the last part has one
    assert len(line.get_xdata()) == 151


def test_the_legend_of_36_curves_is_outside_and_each_looks_different(tmp_path):
    for number in range(36):
        run_folder(tmp_path / f"{number:02}", [1.0, 0.5 + 0.01 * number], settings={"method.clip": number}, every=1)
    figure = drawn([tmp_path], View(y=("loss",), x="rounds"))
    figure.draw_without_rendering()
    [legend], [axes] = figure.legends, figure.axes
    assert len(legend.get_texts()) == len(axes.lines) == 36
    beside, whole = legend.get_window_extent(), figure.bbox
    assert beside.x0 >= axes.get_window_extent().x1 and beside.x1 <= whole.x1
    assert whole.y0 <= beside.y0 and beside.y1 <= whole.y1
    assert len({(look(number)["linestyle"], look(number)["marker"]) for number in range(36)}) == 36


def test_runs_with_the_same_cohorts_share_a_strip(tmp_path):
    majority = {3: {"byzantine": 3}, 7: {"byzantine": 4}}
    for number, lines in enumerate((majority, majority, {4: {"byzantine": 3}}, {})):
        run_folder(tmp_path / str(number), [1.0, 0.5], settings={"name": f"run {number}"}, lines=lines)
    run_folder(tmp_path / "short", [1.0, 0.5], "diverged", {"name": "short"}, lines={3: {"byzantine": 3}}, every=5)
    axes = drawn([tmp_path], View(y=("loss",), x="rounds")).axes[-1]
    assert [list(strip.get_positions()) for strip in axes.collections] == [[3, 7], [4]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["3 curves", "run 2"]


def test_texts_of_files_are_drawn_to_the_letter(tmp_path):
    names = ["$\\frac$ $x$", "_hidden", "two\nlines"]
    for number, name in enumerate(names):
        run_folder(tmp_path / str(number), [1.0, 0.5], settings={"name": name}, every=1)
    figure = drawn([tmp_path], View(y=("loss",), x="rounds"))
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "\\$\\frac\\$ \\$x\\$",
        " _hidden",
        "two�lines",
    ]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View(y=("acuracy",)), "--y: no run has 'acuracy'; there are .*accuracy"),
        (View(y=("kind",)), "--y: kind is not a number"),
        (View(y=("loss", "accuracy"), facet=("attack",)), "one metric"),
        (View(timeline=True), "12 runs were given"),
        (View(heat=("attack", "method.clip")), "method.clip: no run has this key"),
    ],
)
def test_what_cannot_be_shown_is_refused(sweep, view, message):
    with pytest.raises(ConfigError, match=message):
        drawn([sweep], view)


@pytest.mark.parametrize("words", ["--facet a,b,c", "--heat a", "--y a,,b", "--x time", "--facet a --timeline"])
def test_a_wrong_word_on_the_command_line_is_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["plot", "DIR", "-o", "x.png", *words.split()])
    assert "argument --" in capsys.readouterr().err


def test_the_command_draws_a_run_that_goes_on(tmp_path, capsys):
    folder = run_folder(tmp_path / "a", [1.0, 0.5], status="", every=1)
    run_folder(tmp_path / "sweep" / "none", [], settings={"seed": 1})
    for format_ in ("svg", "pdf"):
        out = tmp_path / f"x.{format_}"
        words = ["plot", str(folder), str(tmp_path / "sweep"), "-o", str(out), "--y", "loss", "--x", "rounds"]
        assert main(words) == 0
        assert out.read_bytes()[:5] in (b"<?xml", b"%PDF-")
    assert capsys.readouterr().out.startswith("wrote ")
