"""The command line with real processes."""

import csv
import json
import re

import pytest

from tests.support.cases import BASE, CASES, case
from tests.support.harness import byzdist, train, write_config

RANK = {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    "words, env, complaint",
    [
        (["method.clip=maybe"], {}, "method.clip: .*'none'"),
        (["data={name: libsvm, path: nowhere}"], {}, "data.path: there is no such file"),
        (["rounds=0"], RANK, "rounds: "),
        ([], {"RANK": "0"}, "WORLD_SIZE: None is not a number"),
        ([], {**RANK, "WORLD_SIZE": "1"}, "WORLD_SIZE: 1 with RANK 0"),
    ],
)
def test_a_mistake_ends_with_2_and_leaves_nothing_behind(tmp_path, words, env, complaint):
    path = write_config(tmp_path, BASE)
    with byzdist("run", path, *words, "--out", tmp_path / "run", env=env) as job:
        assert job.wait(60) == 2, job.output
        job.assert_clean()
    assert re.match(rf"byzdist: {complaint}", job.output.splitlines()[-1]), job.output
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_run_leaves_what_it_promises(tmp_path):
    run = train(tmp_path, {**CASES["attack shift_back, rand_k"], "rounds": 20}, workers=2)
    names = {path.name for path in run.folder.iterdir()}
    assert {"config.yaml", "run.json", "clients.csv", "metrics.jsonl", "summary.json", "model.safetensors"} <= names
    lines, summary = run.metrics, run.summary
    assert [line["round"] for line in lines] == list(range(21))
    assert summary["status"] == "finished" and summary["rounds"] == 21
    assert summary["bytes_up"] == sum(line["bytes_up"] for line in lines)
    assert summary["bytes_down"] == sum(line["bytes_down"] for line in lines)
    majorities = sum(2 * line["byzantine"] > len(line["cohort"]) for line in lines)
    assert summary["byzantine_majorities"] == majorities > 0
    for key in ("loss", "gap", "grad_norm", "accuracy"):
        assert summary[key] == lines[20][key]
    assert 0 <= lines[20]["gap"] < lines[0]["gap"]
    facts = json.loads((run.folder / "run.json").read_text())
    assert (facts["seed"], facts["workers"], facts["parameters"]) == (5, 2, 12)
    table = list(csv.DictReader((run.folder / "clients.csv").open()))
    assert [int(row["client"]) for row in table] == list(range(9))
    assert all(int(row["samples"]) == 90 == int(row["label_0"]) + int(row["label_1"]) for row in table)
    assert re.search(r"finished after 21 rounds in [\d.]+ s", run.output)
    assert run.output.strip().splitlines()[-1].strip() == str(run.folder)
    assert "Traceback" not in run.output


def test_a_run_that_diverges_ends_with_1_and_says_what_to_set(tmp_path):
    config = {**case("none", step_size=300.0, clip="none"), "evaluate": {"every": 2}}
    with byzdist("run", write_config(tmp_path, config), "--workers", "2", "--out", tmp_path / "run") as job:
        assert job.wait(60) == 1, job.output
        job.assert_clean()
    last = job.output.strip().splitlines()[-1]
    assert re.search(
        r"round \d+: the run has diverged: its loss is .* Set method.clip .* model of round \d+ is kept", last
    ), job.output
    assert "diverged after" in job.output and "Traceback" not in job.output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"
    assert (tmp_path / "run" / "model.pt").exists()
