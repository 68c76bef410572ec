"""What `byzdist plan` promises holds in runs: the theorems' rates on quadratics, and a proposal that trains."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import yaml

from byzdist.config.reading import parse
from byzdist.planning.plan import plan
from byzdist.planning.probe import in_this_process, probe
from byzdist.planning.subject import Options
from byzdist.planning.tuning import tune
from tests.support.cases import BASE

SEEDS = range(3)
_ROWS = np.random.default_rng(7).choice([-1.0, 1.0], (32, 4)) * np.array([1.0, 1.2, 0.8, 1.0])
_TARGETS = _ROWS @ np.array([3.0, -1.0, 2.0, 1.0]) + np.random.default_rng(8).standard_normal(32)


def quadratic() -> tuple[np.ndarray, np.ndarray]:
    """Least squares, whose loss is a quadratic."""
    return _ROWS, _TARGETS


def minimum() -> float:
    solution, *_ = np.linalg.lstsq(_ROWS, _TARGETS, rcond=None)
    return float(np.mean((_ROWS @ solution - _TARGETS) ** 2))


def tree(attack: str, **sections: Any) -> dict[str, Any]:
    return {
        "name": "quadratic",
        "seed": 0,
        "rounds": 200,
        "clients": {"count": 10, "byzantine": 2},
        "data": {"name": f"{__name__}:quadratic", "split": "shared"},
        "task": "regression",
        "model": {"name": "linear", "bias": False},
        "method": {
            "name": "byz_vr_marina_pp",
            "step_size": 1.0,
            "p": 0.5,
            "batch_size": 4,
            "cohort": 5,
            "clip_growth": "none",
        },
        "aggregation": {"rule": "trimmed_mean"},
        "attack": attack,
        "transport": "local",
        "evaluate": {"every": 25},
        "dtype": "float64",
        "device": "cpu",
        **sections,
    }


@pytest.mark.parametrize(
    "attack, compression, theorem",
    [
        ("shift_back", {"name": "identity"}, "4.2"),
        ("bit_flip", {"name": "rand_k", "ratio": 0.5}, "4.1"),
    ],
)
def test_the_theorems_step_converges_at_least_at_the_promised_rate(tmp_path, attack, compression, theorem):
    given = tree(attack, compression=compression)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(given))
    found = json.loads(plan(str(path), options=Options(probes=False)).json())["theory"]
    hessian = np.linalg.eigvalsh(2 * _ROWS.T @ _ROWS / 32)
    assert (found["mu"], found["L_of_mean"]) == pytest.approx((hessian[0], hessian[-1]), rel=1e-9)
    step, rate = found[f"theorem_{theorem}_step_pl"]["sharp"], found[f"theorem_{theorem}_rate"]["sharp"]
    assert rate == pytest.approx(min(step * hessian[0], 0.5 / (8 if theorem == "4.1" else 4)))
    method = {**given["method"], "step_size": step, "clip": found[f"theorem_{theorem}_clip"]}
    losses = [probe(in_this_process(parse({**given, "seed": seed, "method": method}))).losses for seed in SEEDS]
    gaps = np.mean(losses, axis=0) - minimum()
    assert len(gaps) == 9 and gaps[-1] < 0.5 * gaps[0], "the rate promises something in these rounds"
    assert np.all(gaps <= gaps[0] * (1 - rate) ** (25 * np.arange(9)) * (1 + 1e-9))


def test_what_tune_prints_is_what_run_takes_and_trains_better(tmp_path):
    """As `byzdist run CONFIG $(byzdist plan CONFIG --tune)`, from a step size of no use."""
    path, out = tmp_path / "config.yaml", tmp_path / "run"
    method = {**BASE["method"], "step_size": 1e-6, "cohort": 4, "p": 0.0888}  # the paper's p, so that no other is tried
    tree = {**BASE, "rounds": 60, "clients": {"count": 9, "byzantine": 2}, "aggregation": {"rule": "coordinate_median"}}
    path.write_text(yaml.safe_dump({**tree, "method": method, "attack": "bit_flip", "transport": "local"}))
    byzdist = [sys.executable, "-m", "byzdist"]
    printed = subprocess.run([*byzdist, "plan", path, "--tune"], capture_output=True, text=True, check=True).stdout
    overrides = printed.split()
    assert tune(str(path)).overrides() == overrides, "the same configuration and seed, the same answer"
    assert [word.partition("=")[0] for word in overrides] == ["method.step_size", "method.clip", "method.p"]
    values = {key: float(value) for key, _, value in (word.partition("=") for word in overrides)}
    assert values["method.step_size"] * values["method.clip"] <= values["method.p"] * 9 / (2 * 2), (
        "no minority feeds the level"
    )
    subprocess.run([*byzdist, "run", path, *overrides, "--out", out], capture_output=True, check=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["gap"] < 0.2 * lines[0]["gap"]
