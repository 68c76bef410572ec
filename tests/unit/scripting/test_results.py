"""The results that a script reads from a run's folder."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from byzdist.errors import ConfigError
from byzdist.scripting.results import Event, load_run

FULL = {"kind": "full", "cohort": [0, 1], "missing": {}, "byzantine": 0, "clip_level": None, "seconds": {"total": 0.5}}
SAMPLED = {
    "kind": "sampled",
    "cohort": [1],
    "missing": {"1": "late"},
    "byzantine": 1,
    "clip_level": 0.25,
    "seconds": {"total": 0.25},
}
LINES = [
    {"round": 0, **FULL, "loss": 2.0},
    {"round": 1, **SAMPLED, "news": ["worker 1 left"]},
    {"round": 2, **FULL, "loss": 1.0},
]
SUMMARY = {"status": "finished", "rounds": 3, "loss": 1.0, "accuracy": 0.75, "bytes_up": 20, "seconds": 1.25}


@pytest.fixture
def folder(tmp_path):
    config = {"name": "run", "seed": 0, "model": {"name": "linear", "l2": 0.0}, "data": {"name": "digits"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    problem = {"features": [3], "outputs": 2, "inputs": "numbers"}
    (tmp_path / "run.json").write_text(
        json.dumps({"run": "x", "metrics": {"loss": "lower", "accuracy": "higher"}, "problem": problem})
    )
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    return tmp_path


def test_metrics_are_columns_with_nan_where_a_round_has_no_value(folder):
    metrics = load_run(folder).metrics
    assert metrics["round"].tolist() == [0, 1, 2] and metrics["round"].dtype == np.int64
    np.testing.assert_array_equal(metrics["loss"], [2.0, np.nan, 1.0])
    np.testing.assert_array_equal(metrics["clip_level"], [np.nan, 0.25, np.nan])
    assert metrics["kind"].tolist() == ["full", "sampled", "full"] and metrics["cohort"].tolist() == [
        [0, 1],
        [1],
        [0, 1],
    ]
    assert metrics["seconds.total"].tolist() == [0.5, 0.25, 0.5] and metrics["missing"][1] == {"1": "late"}
    with pytest.raises(KeyError, match=r"'gap'; there are round, kind, .*loss"):
        metrics["gap"]
    assert repr(metrics).startswith("<metrics of 3 rounds: round, kind")


def test_events_and_the_configuration_are_as_the_run_wrote_them(folder):
    run = load_run(str(folder))
    assert run.events == [Event(1, "worker 1 left")] and run.config["model"] == {"name": "linear", "l2": 0.0}
    assert run.summary == SUMMARY and run.path == folder


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def test_it_is_shown_as_a_table(folder, no_pictures):
    run = load_run(folder)
    rows = dict(line.split(maxsplit=1) for line in repr(run).splitlines() if not line.startswith(("bytes", "folder")))
    assert rows == {"status": "finished", "rounds": "3", "loss": "1", "accuracy": "0.75", "seconds": "1.25"}
    assert "<td style='text-align:left'>finished</td>" in run._repr_html_() and "<img" not in run._repr_html_()
    with pytest.raises(ConfigError, match=r"pip install 'byzdist\[plot\]'"):
        run.plot()


def test_what_a_file_holds_is_text_in_a_notebook(folder, no_pictures):
    (folder / "summary.json").write_text(json.dumps(SUMMARY | {"reason": "<script>"}))
    assert "&lt;script&gt;" in load_run(folder)._repr_html_() and "<script>" not in load_run(folder)._repr_html_()


def test_a_run_that_goes_on_is_unfinished_and_a_line_that_is_not_complete_does_not_count(folder):
    (folder / "summary.json").unlink()
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text[:-10])
    run = load_run(folder)
    assert run.summary == {"status": "unfinished", "rounds": 2} and run.metrics["round"].tolist() == [0, 1]
    (folder / "metrics.jsonl").unlink()
    assert len(run.metrics) == 0 and run.events == [] and "unfinished" in repr(run)


def test_the_model_is_the_module_with_its_weights_in_their_dtype(folder):
    run = load_run(folder)
    made = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    names = list(run._made(False).state_dict())
    weight, bias = torch.arange(6.0, dtype=torch.float64).view(2, 3), torch.tensor([7.0, 8.0], dtype=torch.float64)
    save_file(dict(zip(names, (weight, bias), strict=True)), folder / "model.safetensors", {"round": "2"})
    inputs = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    assert torch.equal(run.model()(inputs), inputs @ weight.T + bias) and not run.model().training
    save_file({"1.weight": weight, "1.bias": bias}, folder / "model.safetensors", {"round": "2"})
    assert torch.equal(run.model(made)(inputs), inputs @ weight.T + bias)
    with pytest.raises(ConfigError, match="holds a model of 8 parameters"):
        run.model(lambda: torch.nn.Linear(2, 2))


def test_code_that_a_folder_names_is_imported_only_if_it_is_trusted(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"model": {"name": "this:net"}}))
    with pytest.raises(ConfigError, match=r"model: 'this:net' is code that would be imported and run"):
        load_run(folder).model()
    assert "this" not in sys.modules
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"model": {"name": "__main__:<lambda>#0123"}}))
    with pytest.raises(ConfigError, match=r"does not say how .* is made\. Give the module: run.model\(module\)"):
        load_run(folder).model(trust=True)


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda folder: (folder / "run.json").unlink(), "holds no run"),
        (lambda folder: (folder / "config.yaml").unlink(), "holds no run"),
        (lambda folder: (folder / "metrics.jsonl").write_text("{}\n"), "line 1 is not a metrics line: it has no round"),
        (lambda folder: (folder / "metrics.jsonl").write_text('{"round": 0}\nx\n'), "line 2 is not a metrics line"),
        (lambda folder: (folder / "summary.json").write_text("[]"), "summary.json: this is not what a run writes"),
        (lambda folder: (folder / "summary.json").write_text("{"), "summary.json: this is not what a run writes"),
    ],
)
def test_a_folder_that_is_not_as_a_run_leaves_it_is_told(folder, breaks, said):
    breaks(folder)
    with pytest.raises(ConfigError, match=said):
        run = load_run(folder)
        _ = run.metrics, run.summary


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_run(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        load_run(tmp_path / "file")


@pytest.mark.parametrize("folder", [3, None])
def test_what_is_no_path_is_refused(folder):
    with pytest.raises(ConfigError, match=f"load_run: {folder} is not the path of a folder"):
        load_run(folder)
