"""A run on an accelerator: the same cohorts and batches as on the CPU, losses to 1e-4, and the same bits each time."""

import json
from typing import Any

import pytest
import torch

import byzdist
from byzdist.host.accelerators import count
from tests.support.cases import RAND_K, SHARED, case
from tests.support.harness import Run, comparable, train, write_config
from tests.support.harness import byzdist as byzdist_command
from tests.support.runs import drop_after

if not torch.accelerator.is_available():
    pytest.skip("torch sees no GPU or other accelerator here", allow_module_level=True)

DIGITS = {"data": {"name": "digits", "split": "iid"}, "clients": {"count": 6, "byzantine": 1}, "rounds": 10}
DIGITS |= {"aggregation": {"rule": "geometric_median", "pre": ["nnm"]}, "evaluate": {"every": 5}, "dtype": "float32"}
DIABETES = {"data": {"name": "diabetes", "split": "iid"}, "model": {"name": "linear"}}


def of_copies(name, compression, **method):
    """Return the configuration of a method that asks all clients."""
    tree = case("bit_flip", compression, name=name, clip=None, cohort=None, p=None, **method)
    return {**tree, "rounds": 12, "clients": {"count": 9, "byzantine": 2}}


def local_steps(inner):
    method = {"name": "local_steps", "step_size": 1.0, "batch_size": 8, "cohort": 5, "steps": 3, "inner": inner}
    return {**case("alie"), "method": method, "rounds": 12}


ESTIMATE: dict[str, Any] = {"name": "momentum_sgd", "clip": 1.0, "cohort": 5}
CASES = {
    **{f"attack {name}": case(name) for name in ("none", "gaussian", "alie", "shift_back", "nan")},
    "rand_k": case("alie", RAND_K),
    "rand_k, shared": case("bit_flip", SHARED),
    "qsgd": case("ipm", {"name": "qsgd"}),
    "natural": case("mimic", {"name": "natural"}),
    "marina pp plus": case("bit_flip", name="byz_vr_marina_pp_plus"),
    "marina": case("bit_flip", name="byz_vr_marina", cohort=None, clip=None),
    "momentum": case("alie", **ESTIMATE),
    "adam": case("bit_flip", **ESTIMATE, server_optimizer={"name": "adam"}),
    "demoa": case("bit_flip", name="demoa", clip=None, p=None),
    "rosdhb": case("bit_flip", SHARED, name="rosdhb", clip=None, p=None),
    "nsgdm": of_copies("byz_nsgdm", None),
    "ef21, top_k": of_copies("byz_ef21", {"name": "top_k", "ratio": 0.3}, batch_size=None),
    "dm21": of_copies("byz_vr_dm21", {"name": "top_k", "ratio": 0.3}),
    "dasha": of_copies("byz_dasha_page", RAND_K),
    "clip21": of_copies("byz_clip21", None, tau=0.5, sigma=0.01),
    "adamw": local_steps({"name": "adamw", "step_size": 0.01}),
    "momentum inside": local_steps({"name": "momentum", "step_size": 0.05}),
    "error feedback": case(
        "bit_flip", {"name": "error_feedback", "compressor": {"name": "top_k", "ratio": 0.3}}, name="sgd", cohort=9
    ),
    "mlp": case("bit_flip") | DIGITS | {"model": {"name": "mlp", "hidden": [8]}},
    "diagnostics": case("ipm") | {"metrics": {"diagnostics": True}},
    "regression": case("bit_flip", step_size=0.02) | DIGITS | DIABETES,
}


def here(config, device):
    """Return a configuration for one process on a device."""
    return {**config, "rounds": min(config["rounds"], 20), "device": str(device), "transport": "local"}


def trained(folder, config, device):
    """Train a configuration in this process; return its metrics and its model."""
    byzdist.train(out=folder, workers=0, **here(config, device))
    return comparable(folder), Run(folder, "").model


def agree(there, here):
    """Check that two runs asked the same clients, and that their losses agree."""
    assert [line["cohort"] for line in there] == [line["cohort"] for line in here]
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (there, here)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) >= 2


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_a_run_has_the_losses_that_it_has_on_the_cpu_and_the_same_bits_each_time(device, tmp_path, config):
    first, again = (trained(tmp_path / name, config, device) for name in ("first", "again"))
    agree(first[0], trained(tmp_path / "cpu", config, "cpu")[0])
    assert first[0] == again[0] and first[1].equal(again[1])


def test_a_module_with_random_layers_and_buffers_gives_the_same_bits_each_time(device, tmp_path):
    X, y = torch.randn(60, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.Dropout(0.3),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 3),
    )
    models = []
    for name in ("first", "again"):
        run = byzdist.train(
            data=(X, y),
            model=net,
            **{"model.buffers": "local"},
            clients=4,
            rounds=6,
            method={"name": "sgd", "step_size": 0.1, "batch_size": 8, "cohort": 4},
            rule="mean",
            precision="bf16",
            device=str(device),
            workers=0,
            out=tmp_path / name,
        )
        models.append(Run(tmp_path / name, "").model)
        assert run.summary["status"] == "finished"
    assert models[0].equal(models[1])


@pytest.mark.parametrize("transport", ["star", "collective"])
def test_real_processes_give_the_bits_of_one(device, tmp_path, transport):
    """On the collective, models and payloads travel from device to device if each rank has one."""
    config = case("alie", RAND_K) | {"device": device.type, "rounds": 12}
    alone = trained(tmp_path / "alone", config, device)
    several = train(tmp_path / "several", {**config, "transport": {"name": transport, "deadline": 30}})
    drop = ("bytes_down", "bytes_up", "news")
    assert comparable(several.folder, drop) == comparable(tmp_path / "alone", drop)
    assert several.model.equal(alone[1])


def test_jobs_of_a_sweep_use_different_devices(device, tmp_path):
    if count(device.type) < 2:
        pytest.skip(f"one {device.type} device here")
    sweep = {"base": {**here(case("none"), device.type), "rounds": 300}, "grid": {"seed": [1, 2]}}
    with byzdist_command("sweep", write_config(tmp_path, sweep), "--jobs", "2", "--out", tmp_path / "out") as job:
        assert job.wait(120) == 0, job.output
    told = [json.loads(path.read_text())["device"] for path in (tmp_path / "out").glob("*/run.json")]
    assert sorted(told) == [f"{device.type}:0", f"{device.type}:1"]


def test_a_run_is_resumed_to_the_same_bits(device, tmp_path):
    config = case("bit_flip", name="byz_vr_dm21", clip=None, cohort=None, p=None) | {
        "clients": {"count": 9, "byzantine": 2}
    }
    config |= {"compression": {"name": "top_k", "ratio": 0.3}, "checkpoint": {"every": 5, "keep": 9}}
    whole = trained(tmp_path / "whole", config, device)
    trained(tmp_path / "broken", config, device)
    drop_after(tmp_path / "broken", 15)
    resumed = byzdist.train(out=tmp_path / "broken", workers=0, resume=True, **here(config, device))
    assert resumed.summary["status"] == "finished" and Run(tmp_path / "broken", "").model.equal(whole[1])
