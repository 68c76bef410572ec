"""The real TensorBoard, Weights & Biases (offline) and MLflow get a run's measurements."""

import json
import time

import pytest
from torch import nn

import byzdist
from tests.distributed.test_train import X, Y


def run(out, metrics):
    method = byzdist.byz_vr_marina_pp(step_size=0.2, cohort=3, p=0.3, batch_size=4)
    settings = {"rounds": 4, "clients": 5, "rule": "mean", "evaluate": 2, "progress": False}
    return byzdist.train(nn.Linear(3, 2), (X, Y), method=method, metrics=metrics, out=out, **settings)


def test_tensorboard_has_every_round(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = run(tmp_path / "run", {"tensorboard": True})
    events = EventAccumulator(str(done.path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("bytes_up")] == [0, 1, 2, 3, 4]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(
        done.metrics["loss"][[0, 2, 4]].tolist(), rel=1e-6
    )


def test_weights_and_biases_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    done = run(tmp_path / "run", {"log": {"name": "wandb", "project": "mine"}})
    (kept,) = (done.path / "wandb").glob("offline-run-*/run-*.wandb")
    until = time.monotonic() + 60.0
    while b"accuracy" not in (content := kept.read_bytes()) and time.monotonic() < until:
        time.sleep(0.05)  # a process of wandb's own writes it
    assert b"bytes_up" in content and b"accuracy" in content and b"coordinate_median" not in content


def test_mlflow_has_parameters_and_metrics(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    done = run(tmp_path / "run", {"log": ["mlflow"]})
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("byzdist").experiment_id])
    assert found.info.status == "FINISHED" and found.data.params["method.step_size"] == "0.2"
    history = {point.step: point.value for point in client.get_metric_history(found.info.run_id, "loss")}
    assert history == {step: done.metrics["loss"][step] for step in (0, 2, 4)}
    assert json.loads((done.path / "summary.json").read_text())["status"] == "finished"
