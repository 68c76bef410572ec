import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from byzdist.cli.evaluate.report import evaluate
from byzdist.cli.main import main
from byzdist.errors import ConfigError
from byzdist.problem.models import build
from byzdist.storage.export import load_model, save_model, state_dict
from tests.support.cases import BASE
from tests.support.inprocess import train_in


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    train_in(BASE | {"rounds": 20}, folder)
    return folder


def last_line(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def test_a_run_is_judged_as_its_metrics_say(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    line, report = last_line(run), capsys.readouterr().out
    assert "model after round 20" in report
    assert f"loss {line['loss']:.6g}" in report and f"accuracy {line['accuracy']:.6g}" in report
    assert "(90 training samples)" in report


def test_a_regression_is_judged_by_its_own_metrics(tmp_path):
    tree = {
        **BASE,
        "rounds": 2,
        "data": {"name": "diabetes"},
        "model": {"name": "mlp", "hidden": [4]},
        "evaluate": {"every": 1},
    }
    train_in(tree, tmp_path / "run")
    line, report = last_line(tmp_path / "run"), evaluate(tmp_path / "run")
    for name in ("mae", "rmse"):
        assert f"  {name} {line[name]:.6g} (" in report and "accuracy" not in report
    assert report.count("(lower is better)") == 2
    described = json.loads((tmp_path / "run" / "run.json").read_text())["metrics"]
    assert described == dict.fromkeys(["loss", "gap", "grad_norm", "mae", "rmse"], "lower")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["mae"], summary["rmse"]) == (line["mae"], line["rmse"])


def test_the_last_checkpoint_counts_where_there_is_no_model(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").unlink()
    assert evaluate(tmp_path / "copy") == evaluate(run)
    shutil.rmtree(tmp_path / "copy" / "checkpoint")
    with pytest.raises(ConfigError, match="no model"):
        evaluate(tmp_path / "copy")
    shutil.copy(run / "model.safetensors", tmp_path / "copy")
    assert evaluate(tmp_path / "copy") == evaluate(run)


def test_other_data_are_judged_by_the_same_model(run):
    report = evaluate(run, ["data.samples=500"])
    assert "(500 training samples)" in report and report != evaluate(run)


def test_data_that_do_not_fit_are_refused(run):
    with pytest.raises(ConfigError, match="13"):
        evaluate(run, ["data.features=13"])


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "config.yaml" in capsys.readouterr().err


def test_models_come_back_bit_for_bit_for_all_readers(tmp_path):
    model = build({"name": "logistic_regression", "l2": 0.0}, (7,), 3, seed=0)
    d = sum(parameter.numel() for parameter in model.parameters())
    x = torch.randn(d, generator=torch.Generator().manual_seed(1))
    save_model(model, x, tmp_path, 12)
    round_, found = load_model(model, tmp_path)
    assert round_ == 12 and torch.equal(found, x)
    plain = torch.load(tmp_path / "model.pt", weights_only=True)
    assert plain.keys() == load_file(tmp_path / "model.safetensors").keys() == state_dict(model, x).keys()
    model.load_state_dict(plain)
    assert torch.equal(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), x)


def test_a_model_of_another_module_is_refused(tmp_path):
    small, large = (build({"name": "logistic_regression", "l2": 0.0}, (size,), 3, seed=0) for size in (4, 5))
    d = sum(parameter.numel() for parameter in small.parameters())
    save_model(small, torch.zeros(d), tmp_path, 1)
    with pytest.raises(ConfigError, match="data, model: .*a model of 12 parameters.*15"):
        load_model(large, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_model(small, tmp_path)
