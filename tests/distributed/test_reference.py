"""Runs of real processes against the reference, and bit for bit against the same run in one process."""

import json

import numpy as np
import pytest
import torch

from byzdist.config import parse
from byzdist.data import load
from tests import inprocess
from tests.cases import CASES
from tests.harness import train
from tests.reference import Reference

CLOSE = 1e-12  # relative: the sums of byzdist and of the reference run in another order, in float64
# Every attack once. Star workers that send NaN or infinity end in quarantine, which the reference knows nothing of.
RUNS = [
    ("attack none, rand_k", 2, "collective"),
    ("byz_vr_marina", 2, "star"),  # bit_flip
    ("sgd, label_flip", 5, "star"),
    ("byz_vr_marina_pp_plus, full_batch", 2, "collective"),  # gaussian
    ("byz_vr_marina, rand_k", 5, "star"),  # alie
    ("byz_vr_marina_pp, g0 zero", 2, "collective"),  # ipm
    ("everything at once", 5, "star"),  # mimic
    ("momentum_sgd, clip 0.5", 2, "star"),  # shift_back
    ("byz_vr_marina_pp_plus, full_batch, rand_k", 5, "collective"),  # shift_back
    ("attack zero, rand_k", 2, "star"),
    ("attack inf, rand_k", 2, "collective"),
    ("attack nan", 2, "collective"),
]
# The gap needs the optimum, which the run in one process does not look for.
INCIDENTAL = ("seconds", "bytes_up", "bytes_down", "news", "gap")


def lines(metrics):
    return [{key: value for key, value in line.items() if key not in INCIDENTAL} for line in metrics]


@pytest.mark.parametrize("name, workers, transport", RUNS)
def test_a_distributed_run_equals_the_reference(name, workers, transport, tmp_path):
    config = {**CASES[name], "transport": {"name": transport}}
    run = train(tmp_path / "real", config, workers=workers)
    data = parse(config).data
    dataset = load({key: value for key, value in data.items() if key != "split"})
    expected = Reference(config, np.asarray(dataset.features), np.asarray(dataset.labels)).run()
    assert np.linalg.norm(run.model.numpy() - expected) < CLOSE * np.linalg.norm(expected)
    # The same bits as with three workers in one process: hence the same for 2 and 5, and on either transport.
    (tmp_path / "inside").mkdir()
    inside = inprocess.train(config, tmp_path / "inside", workers=3)
    assert torch.equal(run.model, inside.x)
    written = (tmp_path / "inside" / "metrics.jsonl").read_text().splitlines()
    assert lines(run.metrics) == lines(map(json.loads, written))
