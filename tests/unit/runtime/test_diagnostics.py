"""byzdist.runtime.diagnostics: what is measured equals what is computed here from the rows, and a resumed run counts on."""

import csv
import json

import numpy as np
import pytest
import torch

from byzdist.aggregation import Aggregator
from byzdist.config.reading import parse
from byzdist.rounds import Messages, Round
from byzdist.runtime.diagnostics import Diagnostics
from byzdist.runtime.experiment import prepare
from tests.support.cases import BASE, case
from tests.support.inprocess import train_in
from tests.support.records import record
from tests.support.runs import drop_after
from tests.unit.runtime.test_resume import saved

ROWS = torch.tensor([[3.0, 0.0], [0.0, 4.0], [6.0, 8.0], [-60.0, -80.0]], dtype=torch.float64)
WATCHED = {**case("bit_flip"), "metrics": {"diagnostics": True}, "rounds": 16, "evaluate": {"every": 4}}


@pytest.fixture(scope="module")
def experiment():
    return prepare(parse(BASE), torch.device("cpu"))  # clients 5 to 8 are Byzantine


def looked(experiment, rule, clients, rows=ROWS, level=None, gradient=None, **fields):
    diagnostics = Diagnostics(experiment, gradient)
    result = Aggregator(rule)(rows, f=1, clip=level)
    received = Messages(Round(4, 0), clients, rows[: len(clients)])
    diagnostics.look(received, rows, level, result, torch.zeros(2, dtype=torch.float64))
    found = record(4, cohort=clients, byzantine=1, **fields)
    diagnostics.complete(found)
    return diagnostics, found.diagnostics


def test_rows_of_honest_and_byzantine_clients_are_measured_apart(experiment):
    _, found = looked(experiment, "mean", [0, 1, 2, 5], level=7.0)
    assert found["honest_clipped"] == pytest.approx(1 / 3) and found["byzantine_clipped"] == 1.0
    mean = np.array([3.0, 4.0])  # of the honest rows, as they came
    assert found["honest_variance"] == pytest.approx(np.mean([0 + 16, 9 + 0, 9 + 16]))
    clipped = np.array([[3, 0], [0, 4], [4.2, 5.6], [-4.2, -5.6]]).mean(0)
    assert found["aggregate_error"] == pytest.approx(np.linalg.norm(clipped - mean))
    assert found["byzantine_weight"] == pytest.approx(0.25)


def test_the_weight_of_byzantine_rows_is_that_of_the_rule(experiment):
    _, found = looked(experiment, "krum", [0, 1, 2, 5])
    assert found["byzantine_weight"] == 0.0 and "honest_clipped" not in found
    _, found = looked(experiment, "krum", [5, 6, 7, 0])
    assert found["byzantine_weight"] == 1.0
    _, found = looked(experiment, "coordinate_median", [0, 1, 2, 5])
    assert "byzantine_weight" not in found


def test_the_error_of_the_estimate_is_measured_where_the_model_is_evaluated(experiment):
    gradient = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert looked(experiment, "mean", [0, 1, 2, 5], gradient=gradient, loss=1.0)[1]["estimate_error"] == 5.0
    assert "estimate_error" not in looked(experiment, "mean", [0, 1, 2, 5], gradient=gradient)[1]
    assert "estimate_error" not in looked(experiment, "mean", [0, 1, 2, 5], loss=1.0)[1]


def test_the_farthest_client_stands_out_and_a_bank_has_a_row_for_each_client(experiment):
    bank = torch.zeros(9, 2, dtype=torch.float64)
    bank[:, 0] = torch.arange(9)
    bank[8] = 1000.0
    diagnostics, found = looked(experiment, "coordinate_median", [0, 8], bank, missing={8: "late"})
    columns = diagnostics.columns({8: 2})
    distances = [float(text) for text in columns["distance"]]
    assert distances[8] > 100 > 3 > max(distances[:8])
    assert columns["byzantine"] == [0] * 5 + [1] * 4
    assert columns["asked"] == [1, *[0] * 7, 1] and columns["answered"] == [1, *[0] * 8]
    assert columns["offences"] == [*[0] * 8, 2]
    assert found["honest_variance"] == pytest.approx(np.var(range(5)))


def test_rows_that_are_not_clients_are_not_counted(experiment):
    diagnostics, found = looked(experiment, "mean", [0, 1], ROWS)  # four rows of two replies
    assert found == {} and set(diagnostics.columns({})["distance"]) == {""}


def test_a_resumed_run_counts_on_and_diagnostics_change_no_bit(tmp_path):
    plain = {key: value for key, value in WATCHED.items() if key != "metrics"}
    assert torch.equal(train_in(WATCHED, tmp_path / "whole"), train_in(plain, tmp_path / "plain"))
    train_in(saved(WATCHED, 8), tmp_path / "run")
    drop_after(tmp_path / "run", 8)
    train_in(WATCHED, tmp_path / "run", resume=True)
    with (tmp_path / "run" / "clients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (tmp_path / "run" / "clients.csv").read_text() == (tmp_path / "whole" / "clients.csv").read_text()
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [int(row["asked"]) for row in rows] == [sum(c in line["cohort"] for line in lines) for c in range(9)]
    clipped = sum(
        line["clipped"] for line in lines if line["clip_level"]
    )  # at a level of zero, rows of zeros count too
    assert sum(int(row["clipped"]) for row in rows) == clipped > 0
    assert all(("estimate_error" in line) == (line["round"] % 4 == 0) for line in lines)
