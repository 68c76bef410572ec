"""Rounds that are not clipped count only where their replies can be trusted, and the clipping level stays within bounds."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from byzdist.runtime import full_rounds
from byzdist.storage.checkpoint import rounds as saved_rounds
from byzdist.transport.local import LocalServer
from tests.support.cases import BASE
from tests.support.harness import comparable
from tests.support.inprocess import train, train_in, without

MEDIAN = {"rule": "coordinate_median"}


def along(now):
    """Repeat the server's own estimate, far longer than any level."""
    return now.honest.copy_(now.g).mul_(1e3) if now.difference else now.honest


def huge(now):
    return now.honest.fill_(1e6)


def config(attack="huge", byzantine=4, rounds=60, **sections):
    """Return a configuration with 20 clients whose data are the same."""
    merged = {
        **BASE,
        "rounds": rounds,
        "clients": {"count": 20, "byzantine": byzantine},
        "aggregation": MEDIAN,
        "attack": attack if isinstance(attack, dict) else {"name": f"{__name__}:{attack}"},
    }
    for key, value in sections.items():
        merged[key] = {**merged[key], **value} if key in ("clients", "data", "aggregation") else value
    return merged


def method(**parameters):
    """Return the section, without p for a method that has none."""
    merged = {**BASE["method"], "cohort": 4, "p": 0.1, **parameters}
    return {key: value for key, value in merged.items() if key != "p" or "marina" in merged["name"]}


def away(tmp_path: Path, *rounds: range | list[int]) -> dict[str, object]:
    """Return a section in which the clients of line r can take part in round r."""
    path = tmp_path / "trace"
    path.write_text("\n".join(" ".join(map(str, clients)) for clients in rounds))
    return {"count": 20, "byzantine": 4, "availability": {"name": "trace", "path": str(path)}}


def lossy(loses):
    """Return a server's end at which the replies of clients go missing; ``loses`` maps a request to those clients."""

    class Lossy(LocalServer):
        def collect(self, deadline):
            replies, lost = super().collect(deadline), loses(self._request)
            return without(replies, dict.fromkeys(lost, "lost"))

    return Lossy


def losses(run):
    return [line["loss"] for line in run.metrics if "loss" in line]


@pytest.mark.parametrize("attack", [{"name": "gaussian", "sigma": 1000.0}, "huge"], ids=["gaussian", "huge"])
def test_full_rounds_of_few_clients_do_not_undo_the_run(tmp_path, attack):
    run = train(
        config(attack, rounds=200, method=method(), clients={"availability": {"name": "bernoulli", "q": 0.4}}),
        tmp_path,
    )
    assert max(losses(run)) < 1.1 * losses(run)[0] and losses(run)[-1] < 0.6 * losses(run)[0]
    taken = [line for line in run.metrics if line["kind"] == "full" and "untrusted" not in line]
    assert len(taken) >= 10 and all(line["replies"] >= 9 for line in taken)  # of which the median tolerates 4
    assert any("untrusted" in line for line in run.metrics) and any("called" in line for line in run.metrics)


def test_without_a_start_that_can_be_trusted_the_model_does_not_move(tmp_path, caplog):
    some, everyone = [*range(4), *range(16, 20)], range(20)
    models = {}
    with caplog.at_level(logging.WARNING, logger="byzdist"):
        run = train(
            config(clients=away(tmp_path, *[some] * 5, *[everyone] * 60), rounds=40),
            tmp_path,
            tamper=lambda server, round_: models.update({round_: server.x.clone()}),
        )
    for line in run.metrics[:5]:
        assert (line["kind"], line["replies"], line["untrusted"]) == ("full", 8, "8 of 20 replies, tolerates 3 of 4")
    assert all(not models[round_].any() for round_ in range(6)) and models[6].any()  # x^0 = 0
    assert "untrusted" not in run.metrics[5] and losses(run)[-1] < 0.6 * losses(run)[0]
    assert sum("the model does not move" in message for message in caplog.messages) == 1


def test_a_full_round_for_which_too_few_can_take_part_is_a_sampled_one_and_comes_later(tmp_path):
    some, everyone = range(13, 20), range(20)
    run = train(
        config(method=method(p=1e-9), clients=away(tmp_path, everyone, *[some] * 7, *[everyone] * 60), rounds=12),
        tmp_path,
        tamper=lambda server, round_: server.full_rounds.call(5, "told to") if round_ == 3 else None,
    )
    lines = run.metrics
    assert [line["round"] for line in lines if line["kind"] == "full"] == [0, 8] and lines[8]["called"] == "told to"
    for line in lines[5:8]:
        assert line["untrusted"] == "7 of 20 replies, tolerates 3 of 4" and len(line["cohort"]) == 4
        assert line["clip_level"] > 0
    assert not any("untrusted" in line for line in lines[8:])


def test_replies_that_are_lost_leave_the_estimate_and_the_server_tries_again(tmp_path):
    end = lossy(lambda request: range(1, 14) if request.round.full and request.round.number in (2, 3) else ())
    estimates = {}
    run = train(
        config(method=method(p=1e-9), rounds=10),
        tmp_path,
        tamper=lambda server, round_: (
            estimates.update({round_: server.estimate.g.clone()}),
            server.full_rounds.call(2, "told to") if round_ == 1 else None,
        ),
        end=end,
    )
    lines = run.metrics
    assert [line["round"] for line in lines if line["kind"] == "full"] == [0, 2, 3, 5]
    assert "untrusted" not in lines[5] and lines[5]["called"] == "the replies of the last could not be trusted"
    for round_ in (2, 3):
        assert lines[round_]["untrusted"] == "7 of 20 replies, tolerates 3 of 4"
        assert torch.equal(estimates[round_], estimates[round_ - 1])


@pytest.mark.parametrize(
    "rule, lost, taken", [("trimmed_mean", 5, True), ("coordinate_median", 11, True), ("krum", 11, False)]
)
def test_full_rounds_work_with_all_that_are_declared(tmp_path, rule, lost, taken):
    end = lossy(lambda request: range(lost) if request.round.full else ())
    run = train(config(aggregation={"rule": rule}, method=method(p=1.0), rounds=5), tmp_path, end=end)
    for line in run.metrics:
        assert line["replies"] == 20 - lost
        assert ("untrusted" not in line) == taken
        assert line.get("f") == (4 if taken else None)  # and not floor(4/20 · 15) = 3
    if taken:
        assert losses(run)[-1] < losses(run)[0]


@pytest.mark.parametrize("reply", ["nan", "inf"])
def test_who_sends_what_is_not_finite_is_not_feared_among_the_others(tmp_path, reply):
    """9 of 20: the 11 others could hold 9 Byzantine ones, were it not known who these are."""
    run = train(config({"name": reply}, byzantine=9), tmp_path)
    assert not any("untrusted" in line for line in run.metrics) and losses(run)[-1] < 0.6 * losses(run)[0]


def test_rounds_without_clipping_need_trust_where_the_whole_cohort_has_it(tmp_path):
    end = lossy(lambda request: range(13) if request.round.number in (3, 4) else ())
    estimates = {}
    run = train(
        config(method={**method(p=1e-9), "name": "byz_vr_marina", "cohort": None, "clip": "none"}, rounds=12),
        tmp_path,
        tamper=lambda server, round_: estimates.update({round_: server.estimate.g.clone()}),
        end=end,
    )
    lines = run.metrics
    assert lines[3]["kind"] == "sampled" and lines[3]["untrusted"] == "7 of 20 replies, tolerates 3 of 4"
    assert lines[4]["kind"] == "full" and "unclipped" in lines[4]["called"] and "untrusted" in lines[4]
    assert lines[5]["kind"] == "full" and "untrusted" not in lines[5]
    assert torch.equal(estimates[4], estimates[2])
    assert all(line["f"] == 4 for line in lines[5:]) and losses(run)[-1] < losses(run)[0]


def test_baselines_that_do_without_clipping_go_on_as_they_did(tmp_path):
    run = train(config(attack="along", method=method(clip="none"), rounds=20), tmp_path)
    assert not any("untrusted" in line for line in run.metrics)


@pytest.mark.parametrize("name", ["sgd", "momentum_sgd"])
def test_an_estimate_of_exactly_zero_lets_nothing_through_and_calls_a_full_round(tmp_path, name):
    sizes = {}
    settings = method(name=name)
    run = train(
        config(method=settings, rounds=40),
        tmp_path,
        tamper=lambda server, round_: (
            server.estimate.g.zero_() if round_ == 3 else None,
            sizes.update({round_: float(server.estimate.g.norm())}),
        ),
    )
    lines = run.metrics
    assert lines[4]["clip_level"] == 0.0 and sizes[4] == 0.0
    assert lines[5]["kind"] == "full" and lines[5]["called"] == "the estimate is exactly zero"
    assert 0 < sizes[5] < 10 and losses(run)[-1] < losses(run)[0]


def test_gradients_that_stay_zero_are_asked_for_ever_less_often(tmp_path):
    """Where full rounds themselves give zero, sampled rounds come in between."""

    class Silencing(LocalServer):
        def collect(self, deadline):
            replies = super().collect(deadline)
            for payload in replies.payloads.values():
                payload.zero_()
            return replies

    lines = train(config(method=method(name="sgd"), rounds=60), tmp_path, end=Silencing).metrics
    assert [line["round"] for line in lines if line["kind"] == "full"] == [0, 1, 3, 7, 15, 31]


def norms(tree, folder):
    found = []
    run = train(tree, folder, tamper=lambda server, round_: found.append(float(server.estimate.g.norm())))
    return run, found


def test_a_minority_that_repeats_the_estimate_does_not_make_it_grow_without_bound(tmp_path):
    """8 of 20, the level 0.6·|g|, and a full round in 10^9."""
    settings = method(p=1e-9, clip=2.0, cohort=5)
    free, grown = norms(config("along", 8, 100, method={**settings, "clip_growth": "none"}), tmp_path)
    run, held = norms(config("along", 8, 100, method=settings), tmp_path)
    assert max(grown) > 1e4 * grown[0]  # as it was
    assert max(held) < 10 * held[0]
    called = [line for line in run.metrics if "called" in line]
    assert called and all(line["kind"] == "full" and "|g| is" in line["called"] for line in called)
    assert max(losses(run)) < 5 * losses(run)[0] and max(losses(free)) > 1e3 * losses(free)[0]


def test_the_absolute_cap_holds(tmp_path):
    run, _ = norms(config("along", 5, 60, method=method(clip=5.0, clip_max=0.02, clip_growth="none")), tmp_path)
    levels = [line["clip_level"] for line in run.metrics if line["kind"] == "sampled"]
    assert max(levels) == 0.02


HARD = {"clients": {"availability": {"name": "bernoulli", "q": 0.45}}, "method": method(p=0.2, clip=3.0, cohort=5)}


@pytest.mark.parametrize("name", ["byz_vr_marina_pp", "momentum_sgd"])
def test_what_is_pending_survives_an_interruption(tmp_path, name, monkeypatch):
    monkeypatch.setattr(full_rounds, "PATIENCE", 2)
    settings = method(**{**HARD["method"], "name": name, "clip_growth": 1.0})
    attack = "along" if "pp" in name else {"name": "gaussian", "sigma": 5.0}
    tree = config(attack, 5, 40, clients=HARD["clients"], method=settings)
    tree["checkpoint"] = {"every": 1, "keep": 100}
    whole = train_in(tree, tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    events = [line["round"] for line in lines if "called" in line or "untrusted" in line]
    assert len(events) > 3
    train_in(tree, tmp_path / "run")
    for round_, workers in ((events[-1], 2), (events[-1] - 1, 3), (events[1], 2)):
        for later, path in saved_rounds(tmp_path / "run" / "checkpoint").items():
            if later > round_:
                path.unlink()
        assert torch.equal(whole, train_in(tree, tmp_path / "run", workers, resume=True))
        drop = ("bytes_down",)  # which depends on the number of workers
        assert comparable(tmp_path / "run", drop) == comparable(tmp_path / "whole", drop)


def test_the_number_of_workers_changes_nothing(tmp_path):
    tree = config("along", 5, 60, **HARD)
    one, five = (train(tree, tmp_path, workers) for workers in (1, 5))
    assert torch.equal(one.x, five.x)
    for field in ("kind", "called", "untrusted", "clip_level"):
        assert [line.get(field) for line in one.metrics] == [line.get(field) for line in five.metrics]
    assert any("called" in line for line in one.metrics) and np.isfinite(losses(one)[-1])


def test_a_round_that_did_not_take_place_leaves_no_trace_in_the_state(tmp_path):
    """The run is told to stop, and is stopped after the next round was planned: a full one, for which too few could take part."""
    some, everyone = range(13, 20), range(20)
    servers = []

    def tamper(server, round_):
        if round_ == 3:
            server.full_rounds.call(4, "told to")
            servers.append(server)
            server.stop.tell()

    tree = config(method=method(p=1e-9), clients=away(tmp_path, everyone, *[some] * 7), rounds=12)
    assert train(tree, tmp_path, tamper=tamper).status == "stopped"
    assert servers[0].full_rounds.state()["due"] == 4
