"""Three workers with three different private files, one of them hostile; the server has none of the data."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.cases import BASE
from tests.support.harness import Run, byzdist, train, write_config

OWN = """
import os
from pathlib import Path

import numpy as np


def rows(client, *, path: str):
    rank = os.environ.get("RANK", "none")
    with Path(path, "calls").open("a") as calls:
        calls.write(f"{rank} {client}\\n")
    if rank == "0":
        raise RuntimeError("the server reads private data")
    with np.load(Path(path, f"client-{client}.npz")) as held:
        return held["X"], held["y"]
"""
COUNT, FEATURES = 3, 6


def files(folder: Path) -> None:
    """Write a private file for each client: different numbers of samples, the same true model."""
    generator = np.random.default_rng(3)
    truth = generator.standard_normal(FEATURES)
    for client in range(COUNT):
        X = generator.standard_normal((40 + 30 * client, FEATURES)) + 0.2 * client
        y = (X @ truth + 0.5 * generator.standard_normal(len(X)) > 0).astype(np.int64)
        np.savez(folder / f"client-{client}.npz", X=X, y=y)
    (folder / "own.py").write_text(OWN)


def experiment(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        **BASE,
        "rounds": 40,
        "clients": {"count": COUNT, "byzantine": 1},
        "data": {"name": "own:rows", "where": "worker", "features": [FEATURES], "outputs": 2, "path": str(folder)},
        "method": {**BASE["method"], "cohort": 2, "p": 0.3, "clip": 1.0},
        "aggregation": {"rule": "coordinate_median"},
        "attack": "bit_flip",
        **changes,
    }


def calls(folder: Path) -> set[str]:
    return set((folder / "calls").read_text().splitlines())


def test_equal_bits_on_every_transport_and_the_server_reads_nothing(tmp_path):
    runs = {}
    for transport in ("star", "collective"):
        folder = tmp_path / transport
        folder.mkdir()
        files(folder)
        runs[transport] = train(folder, experiment(folder, transport=transport), workers=COUNT)
        assert calls(folder) == {"1 0", "2 1", "3 2"}
        assert not (folder / "run" / "clients.csv").exists()
    folder = tmp_path / "local"
    folder.mkdir()
    files(folder)
    path = write_config(folder, experiment(folder, transport="local"))
    with byzdist("run", path, "--out", folder / "run") as job:
        assert job.wait(120) == 0, job.output
        runs["local"] = Run(folder / "run", job.output)
    star = runs["star"]
    assert torch.equal(star.model, runs["collective"].model) and torch.equal(star.model, runs["local"].model)
    ended = [{key: run.summary["claimed"] for key in ("claimed",)} for run in runs.values()]
    assert ended[0] == ended[1] == ended[2]
    assert "(claimed)" in star.output and "loss" not in star.summary
    due = [line["round"] for line in star.metrics if "claimed" in line]
    assert due == [0, 10, 20, 30, 40]
