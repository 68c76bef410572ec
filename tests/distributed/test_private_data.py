"""Three workers with three different private files, one of them hostile; the server has none of the data."""

import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.cases import BASE
from tests.support.harness import Job, Run, byzdist, free_port, train, write_config

OWN = """
import os
from pathlib import Path

import byzdist
import numpy as np
import torch


def rows(client, *, path: str):
    rank = os.environ.get("RANK", "none")
    with Path(path, "calls").open("a") as calls:
        calls.write(f"{rank} {client}\\n")
    if rank == "0":
        raise RuntimeError("the server reads private data")
    with np.load(Path(path, f"client-{client}.npz")) as held:
        return held["X"], held["y"]


class Rows(torch.utils.data.Dataset):
    def __init__(self, X, y):
        self.X, self.targets = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        return self.X[index], self.targets[index]


def lazily(client, *, path: str):  # a Dataset, a DataLoader, or a Lazy
    data = Rows(*rows(client, path=path))
    return [data, torch.utils.data.DataLoader(data, batch_size=8), byzdist.Lazy(data, outputs=2)][client]
"""
COUNT, FEATURES, L2 = 3, 6, 0.01


def samples(client: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a client holds: numbers of samples of its own, from one law."""
    generator = np.random.default_rng(client)
    X = generator.standard_normal((400 + 100 * client, FEATURES))
    return X, (X @ np.arange(1, FEATURES + 1) / 3 + generator.standard_normal(len(X)) > 0).astype(np.int64)


def files(folder: Path, *clients: int) -> None:
    """Write the private files of some clients."""
    folder.mkdir(exist_ok=True)
    for client in clients:
        X, y = samples(client)
        np.savez(folder / f"client-{client}.npz", X=X, y=y)


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
        files(folder, 0, 1, 2)
        (folder / "own.py").write_text(OWN)
        runs[transport] = train(folder, experiment(folder, transport=transport), workers=COUNT)
        assert calls(folder) == {"1 0", "2 1", "3 2"}
        assert not (folder / "run" / "clients.csv").exists()
    folder = tmp_path / "local"
    files(folder, 0, 1, 2)
    (folder / "own.py").write_text(OWN)
    path = write_config(folder, experiment(folder, transport="local"))
    with byzdist("run", path, "--out", folder / "run") as job:
        assert job.wait(120) == 0, job.output
        runs["local"] = Run(folder / "run", job.output)
    folder = tmp_path / "lazy"
    files(folder, 0, 1, 2)
    (folder / "own.py").write_text(OWN)
    config = experiment(folder)
    lazy = train(folder, {**config, "data": {**config["data"], "name": "own:lazily", "workers": 1}}, workers=2)
    assert lazy.output.count("its sampler and its worker processes are not") == 1
    star = runs["star"]
    assert torch.equal(star.model, lazy.model)
    assert star.summary["claimed"]["loss"] == pytest.approx(lazy.summary["claimed"]["loss"], rel=1e-12)
    assert torch.equal(star.model, runs["collective"].model) and torch.equal(star.model, runs["local"].model)
    ended = [run.summary["claimed"] for run in runs.values()]
    assert ended[0] == ended[1] == ended[2] and ended[0]["loss"]["clients"] > 0
    assert "(claimed)" in star.output and "loss" not in star.summary
    due = [line["round"] for line in star.metrics if "claimed" in line]
    assert due == [0, 10, 20, 30, 40]


def loss(x: np.ndarray, clients: range) -> float:
    """The mean of the losses of some clients, by numpy alone."""
    losses = [np.logaddexp(0, X @ x) - y * (X @ x) for X, y in map(samples, clients)]
    return float(np.mean([each.mean() for each in losses]) + L2 * x @ x)


def gradient(x: np.ndarray, clients: range) -> np.ndarray:
    each = [X.T @ (1 / (1 + np.exp(-X @ x)) - y) / len(y) for X, y in map(samples, clients)]
    return np.mean(each, axis=0) + 2 * L2 * x


def test_each_worker_has_a_file_of_its_own_and_one_is_hostile(tmp_path):
    """Ranks as on four hosts: the server's has neither the files nor the function, and each worker's has its own client's file."""
    config = experiment(tmp_path, rounds=300)
    del config["data"]["path"]
    hosts = [tmp_path / f"host-{rank}" for rank in range(4)]
    for rank, host in enumerate(hosts):
        host.mkdir()
        write_config(host, config)
        if rank:
            files(host / "files", rank - 1)
            (host / "own.py").write_text(OWN)
            (host / "local.yaml").write_text("data: {path: files}")
    job = {"WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "BYZDIST_SECRET": "s" * 32}
    with ExitStack() as stack:
        jobs = []
        for rank, host in enumerate(hosts):
            words = [sys.executable, "-m", "byzdist", "run", str(host / "config.yaml")]
            words += ["--local", str(host / "local.yaml")] if rank else ["--out", str(tmp_path / "run")]
            jobs.append(
                stack.enter_context(Job(words, env={**job, "RANK": f"{rank}"}, cwd=host / "files" if rank else host))
            )
        for started in jobs:
            assert started.wait(120) == 0, [each.output for each in jobs]
    for rank in (1, 2, 3):
        assert calls(hosts[rank] / "files") == {f"{rank} {rank - 1}"}
    assert sorted(path.name for path in hosts[0].iterdir()) == ["config.yaml"]
    honest, best = range(2), np.zeros(FEATURES)
    for _ in range(2000):
        best -= 0.5 * gradient(best, honest)
    assert np.linalg.norm(gradient(best, honest)) < 1e-10
    run = Run(tmp_path / "run", "")
    assert loss(run.model.numpy(), honest) <= 1.02 * loss(best, honest)
    assert run.summary["claimed"]["loss"]["median"] == pytest.approx(loss(best, honest), rel=0.1)


def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path):
    files(tmp_path, 0, 1, 2)
    (tmp_path / "own.py").write_text(OWN)
    config = experiment(tmp_path, rounds=600, checkpoint={"every": 20})
    path = write_config(tmp_path, {**config, "transport": "local"})
    with byzdist("run", path, "--out", tmp_path / "whole") as job:
        assert job.wait(120) == 0, job.output
    path = write_config(tmp_path, {**config, "attack": "bit_flip"})
    with byzdist("run", path, "--out", tmp_path / "parts", "--workers", "3") as job:
        until = time.monotonic() + 60
        while not list((tmp_path / "parts" / "checkpoint").glob("*")) and time.monotonic() < until:
            time.sleep(0.01)
        job.kill_all()
    assert not (tmp_path / "parts" / "summary.json").exists()
    with byzdist("run", path, "--out", tmp_path / "parts", "--workers", "3", "--resume") as job:
        assert job.wait(120) == 0, job.output
    whole, parts = Run(tmp_path / "whole", ""), Run(tmp_path / "parts", "")
    assert torch.equal(whole.model, parts.model) and whole.summary["claimed"] == parts.summary["claimed"]
    assert [line.get("claimed") for line in whole.metrics] == [line.get("claimed") for line in parts.metrics]
    assert not any(line.startswith("0 ") for line in calls(tmp_path))


@pytest.mark.parametrize("transport", ["star", "collective"])
def test_a_function_that_fails_is_a_users_mistake(tmp_path, transport):
    (tmp_path / "own.py").write_text(OWN)
    config = experiment(tmp_path, transport=transport)  # without the files that it names
    path = write_config(tmp_path, config)
    with byzdist("run", path, "--out", tmp_path / "run", "--workers", "3") as job:
        assert job.wait(120) == 2, job.output
    last = job.output.strip().splitlines()[-1]
    assert re.match(r"byzdist: (rank \d failed: )?data: 'own:rows' ended for client \d with FileNotFoundError: ", last)
    assert (
        re.search(r"rank (\d) failed: data: 'own:rows' ended for client (\d)", job.output)
        and "Traceback" not in job.output
    )
