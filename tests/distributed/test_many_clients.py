"""Thousands of clients on a few worker processes: a round costs what its cohort costs, and nothing else changes."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support.harness import train

FEATURES = 12


def config(clients: int, **changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "name": "many",
        "rounds": 60,
        "clients": {"count": clients, "byzantine": clients // 10},
        "data": {"name": "synthetic", "samples": 12_000, "features": FEATURES, "split": "iid"},
        "model": {"name": "logistic_regression", "l2": 0.01},
        "method": {
            "name": "byz_vr_marina_pp",
            "step_size": 0.1,
            "p": 0.1,
            "batch_size": 2,
            "cohort": 4,
            "full_cohort": 10,
        },
        "aggregation": {"rule": "coordinate_median", "allow_breakdown": True},  # all of 10 could be Byzantine
        "attack": {"name": "bit_flip"},
        "transport": {"name": "star"},
        "evaluate": {"every": 60},
        "dtype": "float64",
    }
    return tree | changes


def test_neither_transport_nor_workers_change_the_model(tmp_path: Path) -> None:
    star = train(tmp_path / "star", config(4000), workers=2)
    other = train(tmp_path / "collective", config(4000, transport={"name": "collective"}), workers=3)
    assert star.model.equal(other.model)
    drawn = {client for line in star.metrics for client in line["cohort"]}
    assert min(drawn) < 400 and max(drawn) > 3600, "cohorts come from all clients"
    assert star.summary["missing"] == 0


@pytest.mark.parametrize("transport", ["star", "collective"])
def test_what_a_round_sends_does_not_depend_on_the_number_of_clients(tmp_path: Path, transport: str) -> None:
    sent = []
    for clients in (20, 4000):
        run = train(tmp_path / str(clients), config(clients, transport={"name": transport}), workers=1)
        sent.append([(line["kind"], line["bytes_up"], line["bytes_down"]) for line in run.metrics])
    assert sent[0] == sent[1]
    ups = {up for kind, up, _ in sent[0] if kind == "sampled"}
    assert ups == {4 * (64 + 8 * FEATURES)}, "four replies: a header and the difference"


def test_only_clients_that_took_part_have_state(tmp_path: Path) -> None:
    method = {"name": "momentum_sgd", "step_size": 0.1, "batch_size": 2, "cohort": 4, "full_cohort": 10}
    run = train(tmp_path, config(4000, method=method), workers=2)
    drawn = {client for line in run.metrics for client in line["cohort"]}
    remembered = set()
    for worker in (1, 2):
        (file,) = (run.folder / "checkpoint").glob(f"round-*60.worker-{worker}.safetensors")
        remembered |= {int(name.rpartition(".")[2]) for name in load_file(file)}
    assert remembered == drawn
    assert len(drawn) < 300
