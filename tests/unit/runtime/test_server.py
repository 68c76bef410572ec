import functools
import json
import logging

import numpy as np
import pytest
import torch

from byzdist.config.reading import parse
from byzdist.errors import RunError
from byzdist.problem.data import load
from byzdist.transport.local import LocalServer
from tests.support.cases import BASE, CASES, RAND_K, SHARED, case
from tests.support.inprocess import train, without
from tests.support.reference import Reference

CLOSE = 1e-12  # relative: the sums of byzdist and of the reference run in another order, in float64


@functools.lru_cache(maxsize=1)
def dataset():
    return load(parse(BASE).data.without("split"))


def reference(config):
    return Reference(config, np.asarray(dataset().features), np.asarray(dataset().labels)).run()


def relative_distance(x, expected):
    return np.linalg.norm(x.numpy() - expected) / np.linalg.norm(expected)


def timeless(lines):
    return [{k: v for k, v in line.items() if k not in ("seconds", "bytes_up", "bytes_down")} for line in lines]


@pytest.mark.parametrize("name", CASES)
def test_a_run_equals_the_reference(name, tmp_path):
    config = {**CASES[name], "rounds": 20}
    assert relative_distance(train(config, tmp_path).x, reference(config)) < CLOSE


@pytest.mark.parametrize("name", ["attack alie, rand_k", "momentum_sgd, clip 0.5", "everything at once"])
def test_the_number_of_workers_changes_no_bit(name, tmp_path):
    for folder in ("two", "five", "nine"):
        (tmp_path / folder).mkdir()
    two = train(CASES[name], tmp_path / "two", workers=2)
    for workers, folder in ((5, "five"), (9, "nine")):
        other = train(CASES[name], tmp_path / folder, workers=workers)
        assert torch.equal(two.x, other.x) and torch.equal(two.g, other.g)
        assert timeless(two.metrics) == timeless(other.metrics)


def test_the_cases_exercise_what_they_are_for(tmp_path):
    lines = train(case("shift_back"), tmp_path).metrics[1:]
    assert sum(2 * line["byzantine"] > len(line["cohort"]) for line in lines) >= 5
    assert 4 <= sum(line["kind"] == "full" for line in lines) <= 20
    assert any(line["clipped"] for line in lines)
    plain, clipped = reference(case(clip="none")), reference(case())
    assert np.linalg.norm(plain - clipped) > 0.1 * np.linalg.norm(clipped)


def test_other_seeds_give_other_runs(tmp_path):
    assert relative_distance(train({**BASE, "seed": 6}, tmp_path).x, reference(BASE)) > 1e-3


@pytest.mark.parametrize("reference_, scale", [("step", 0.3), ("gradient", 1.0)])
def test_the_clipping_level_is_that_of_the_paper_or_of_its_code(tmp_path, reference_, scale):
    norms = {}
    run = train(
        case(clip=2.0, clip_reference=reference_),
        tmp_path,
        tamper=lambda server, round_: norms.update({round_: float(server.estimate.g.norm())}),
    )
    for line in run.metrics:
        expected = None if line["kind"] == "full" else 2.0 * scale * norms[line["round"] - 1]
        assert line["clip_level"] == (expected if expected is None else pytest.approx(expected, rel=1e-12))


def test_a_line_says_what_happened_in_its_round(tmp_path):
    run = train(case("nan", full_cohort=7), tmp_path)
    bad = set(range(5, 9))
    for line in run.metrics:
        assert line["cohort"] == sorted(set(line["cohort"])) and len(line["cohort"]) == (
            7 if line["kind"] == "full" else 5
        )
        assert line["byzantine"] == len(bad & set(line["cohort"]))
        assert line["missing"] == dict.fromkeys(sorted(bad & set(line["cohort"])), "not finite")
        assert line["replies"] == len(line["cohort"]) - line["byzantine"]
        assert ("loss" in line) == (line["round"] % 10 == 0)
        parts = [line["seconds"][part] for part in ("request", "wait", "aggregate")]
        assert all(part > 0 for part in parts) and sum(parts) <= line["seconds"]["total"]
    assert [line["round"] for line in run.metrics] == list(range(31))
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written == json.loads(json.dumps(run.metrics))


def test_a_round_without_a_reply_leaves_the_estimate_as_it_is(tmp_path):
    estimates = {}
    run = train(
        case("inf", cohort=2),
        tmp_path,
        tamper=lambda server, round_: estimates.update({round_: server.estimate.g.clone()}),
    )
    silent = [line["round"] for line in run.metrics if line["replies"] == 0]
    assert silent
    for round_ in silent:
        assert torch.equal(estimates[round_], estimates[round_ - 1])


def test_a_missing_reply_is_recorded_and_the_others_are_aggregated(tmp_path):
    class Lossy(LocalServer):
        def collect(self, deadline):
            replies = super().collect(deadline)
            return without(replies, {3: "gone"})

    run = train({**case("none", clip="none", p=1.0), "rounds": 3}, tmp_path, end=Lossy)
    for line in run.metrics:
        assert line["missing"] == {3: "gone"} and line["replies"] == 8
    # With everyone honest and whole gradients of shared data, one reply more or less changes nothing.
    assert relative_distance(run.x, reference({**case("none", clip="none", p=1.0), "rounds": 3})) < CLOSE


def test_stop_ends_the_run_after_the_round_in_progress(tmp_path):
    run = train(BASE, tmp_path, tamper=lambda server, round_: server.stop.tell() if round_ == 7 else None)
    assert run.status == "stopped"
    assert [line["round"] for line in run.metrics] == list(range(8))
    assert torch.equal(run.x, train({**BASE, "rounds": 7}, tmp_path).x)


def test_a_model_that_is_not_finite_ends_the_run_and_blames_nobody(tmp_path):
    blamed = []

    class Blaming(LocalServer):
        def blame(self, client, reason):
            blamed.append(client)

    config = {**case("none", step_size=1e200, clip="none"), "rounds": 20}
    with pytest.raises(RunError, match=r"round \d+: the run has diverged, its model is not finite.*step_size"):
        train(config, tmp_path, end=Blaming)
    assert not blamed


def test_without_a_first_reply_the_start_is_asked_for_again(tmp_path):
    class Deaf(LocalServer):
        def collect(self, deadline):
            replies = super().collect(deadline)
            deaf = self._request.round.number < 3
            return without(replies, dict.fromkeys(replies.payloads, "not heard") if deaf else {})

    for name in ("byz_vr_marina_pp", "sgd"):
        folder = tmp_path / name
        folder.mkdir()
        lines = train({**case("none", name=name), "rounds": 12}, folder, end=Deaf).metrics
        assert [line["kind"] for line in lines[:4]] == ["full"] * 4 and len(lines[3]["cohort"]) == 9
        assert any(line["kind"] == "sampled" for line in lines[4:])
        assert lines[10]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize("compression, warned", [({**RAND_K, "ratio": 0.1}, True), (SHARED, False), (None, False)])
def test_a_median_of_sparse_vectors_is_warned_of_once(tmp_path, caplog, compression, warned):
    config = case("none", compression)
    config["aggregation"] = {"rule": "coordinate_median"}
    with caplog.at_level(logging.WARNING, logger="byzdist"):
        train(config, tmp_path)
    assert sum("mostly zeros" in message for message in caplog.messages) == warned
