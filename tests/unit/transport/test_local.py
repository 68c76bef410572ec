"""Runs in one process and one thread: the same bits as with workers, from the command line to the end."""

import json
import re

import pytest
import torch
import yaml
from safetensors.torch import load_file

from byzdist.cli.main import main
from byzdist.transport.base import Save, Shape
from byzdist.transport.local import LocalServer
from byzdist.transport.wire import Stage
from tests.support.cases import CASES, case
from tests.support.harness import comparable
from tests.support.inprocess import train_in
from tests.support.runs import drop_after

DROP = ("bytes_down", "news")  # what a worker holds already is not counted there


def run_alone(tree, folder, *words):
    folder.mkdir(exist_ok=True)
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump({**tree, "transport": {**tree.get("transport", {}), "name": "local"}}))
    return main(["run", str(path), "--out", str(folder / "run"), *words])


def model(folder):
    return torch.cat([t.flatten() for _, t in sorted(load_file(folder / "run" / "model.safetensors").items())])


@pytest.mark.parametrize(
    "name", ["everything at once", "momentum_sgd, rand_k", "attack alie, rand_k", "byz_vr_marina_pp, capped"]
)
def test_a_run_alone_equals_one_with_workers(tmp_path, name):
    expected = train_in(CASES[name], tmp_path / "workers", workers=3)
    assert run_alone(CASES[name], tmp_path / "alone") == 0
    assert torch.equal(model(tmp_path / "alone"), expected)
    assert comparable(tmp_path / "alone" / "run", DROP) == comparable(tmp_path / "workers", DROP)


@pytest.mark.parametrize("name", ["momentum_sgd, clip 0.5", "byz_vr_marina_pp, g0 zero"])
def test_it_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path, name):
    tree = {**CASES[name], "rounds": 20, "checkpoint": {"every": 1, "keep": 100}}
    assert run_alone(tree, tmp_path) == 0
    whole, lines = model(tmp_path), comparable(tmp_path / "run", ())
    left = drop_after(tmp_path / "run", 7)
    assert run_alone(tree, tmp_path, "--resume") == 0
    assert torch.equal(model(tmp_path), whole) and comparable(tmp_path / "run", ()) == lines
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resumed_after"] == [left] != [20]


def test_who_keeps_sending_what_is_not_finite_ends_in_quarantine_and_stays_there(tmp_path, capsys):
    tree = {**case("nan"), "rounds": 20, "checkpoint": {"every": 1, "keep": 100}}
    assert run_alone(tree, tmp_path) == 0
    warned = re.findall(r"WARNING client (\d) is in quarantine after 3 offences", capsys.readouterr().err)
    assert sorted(warned) == ["5", "6", "7", "8"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    news = [text for line in lines for text in line.get("news", [])]
    assert sorted(news) == [f"client {c} is in quarantine after 3 offences, the last: not finite" for c in range(5, 9)]
    assert lines[-1]["cohort"] == [0, 1, 2, 3, 4] and not lines[-1]["missing"]
    drop_after(tmp_path / "run", 12)
    assert run_alone(tree, tmp_path, "--resume") == 0
    again = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["cohort"] for line in again] == [line["cohort"] for line in lines]


@pytest.mark.parametrize("attack", ["crash", "hang", "slow", "garbage"])
def test_faults_that_need_a_process_or_a_wire_are_refused(tmp_path, capsys, attack):
    assert run_alone({**case("none"), "attack": {"name": attack}}, tmp_path) == 2
    assert attack in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_there_is_one_process(tmp_path, capsys):
    assert run_alone(case("none"), tmp_path, "--workers", "2") == 2
    assert "--workers: 2 processes, but with transport.name=local there is one" in capsys.readouterr().err


def test_advice_is_given_once(tmp_path, capsys):
    run_alone({**case("none"), "rounds": 1}, tmp_path)
    assert capsys.readouterr().err.count("allow_breakdown") == 1


@pytest.mark.parametrize("stage", list(Stage))
def test_a_part_of_a_checkpoint_that_is_not_saved_is_missing(stage):
    shape = Shape(0, 3, 1, 5, 2, 3, 40, torch.float64, torch.device("cpu"))
    server = LocalServer(shape, offences=3)
    server.connect(lambda order, end: end.answer(order, stage) if isinstance(order, Save) else None)
    server.save(Save(7, 0))
    assert server.unsaved() == ([1] if stage is Stage.WRITING else [])
    assert server.end_save() == ([] if stage is Stage.SAVED else [1])
