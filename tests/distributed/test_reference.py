"""Runs of real processes against the reference: each with 2 and with 5 workers, on both transports."""

import sys
from itertools import count

import numpy as np
import pytest
import torch

from byzdist.config.reading import parse
from tests.support.cases import ATTACKS, CASES, THREE_CLASSES
from tests.support.harness import Job, Run, comparable, train, write_config
from tests.support.problem import load_arrays
from tests.support.reference import Reference

CLOSE = 1e-12  # relative: the sums of byzdist and of the reference run in another order, in float64
WORKERS = (2, 5)
METHODS = [
    "byz_vr_marina",
    "byz_vr_marina, rand_k",
    "byz_vr_marina_pp, g0 zero",
    "byz_vr_marina_pp_plus, full_batch",
    "sgd, label_flip",
    "sgd, along g",
    "mimic, worst",
    "momentum_sgd, clip 0.5",
    "trimmed_mean, iid",
    "krum, iid",
    "everything at once",
]
RUNS = {name: CASES[name] for attack in ATTACKS for name in (f"attack {attack}", f"attack {attack}, rand_k")}
RUNS |= {name: CASES[name] for name in METHODS} | {"three classes": THREE_CLASSES}
# What `along` does without trusted full rounds is a divergence, which ends a run; in one process it is compared all the same.
RUNS = {name: {**config, "rounds": 25} for name, config in RUNS.items() if "along" not in name}
# Clients that send NaN or infinity would end in quarantine, of which the reference knows nothing.
STAR, COLLECTIVE = ({"name": name, "offences": 10**6} for name in ("star", "collective"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run all of RUNS with either number of workers; the two of an experiment differ in the transport as well."""
    base, lines, found = tmp_path_factory.mktemp("runs"), [], {}
    for (name, config), turn in zip(RUNS.items(), count()):
        for workers in WORKERS:
            folder = base / f"{turn}-{workers}"
            folder.mkdir()
            transport = STAR if (turn + workers) % 2 else COLLECTIVE
            write_config(folder, {**config, "transport": transport})
            lines.append(f"{folder} {workers}\n")
            found[name, workers] = Run(folder / "run", "")
    (base / "list").write_text("".join(lines))
    with Job([sys.executable, "-m", "tests.support.forks", str(base / "list")]) as job:
        assert job.wait(240) == 0, job.output
        job.assert_clean()
    return found


@pytest.mark.parametrize("name", RUNS)
def test_a_distributed_run_equals_the_reference(name, runs):
    two, five = (runs[name, workers] for workers in WORKERS)
    dataset = load_arrays(parse(RUNS[name]).data.without("split"))
    expected = Reference(RUNS[name], np.asarray(dataset.features), np.asarray(dataset.labels)).run()
    assert np.linalg.norm(two.model.numpy() - expected) < CLOSE * np.linalg.norm(expected)
    assert torch.equal(two.model, five.model)
    bytes_differ = ("news", "bytes_up", "bytes_down")  # as the transports do
    assert comparable(two.folder, bytes_differ) == comparable(five.folder, bytes_differ)


def test_a_run_that_the_command_starts_is_the_same(runs, tmp_path):
    name = "everything at once"
    assert torch.equal(train(tmp_path, RUNS[name], workers=3).model, runs[name, 2].model)
