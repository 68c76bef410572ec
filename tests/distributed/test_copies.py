"""Methods with copies against their papers' recursions: 200 rounds, compressed or not, across a kill, and with lost replies."""

import json
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch

from byzdist.config.reading import parse
from byzdist.storage.checkpoint import file_name
from byzdist.transport.local import LocalServer
from tests.support.cases import BASE, RAND_K, case
from tests.support.harness import Job, Run, comparable, free_port, write_config
from tests.support.inprocess import train, train_in, without
from tests.support.problem import load_arrays
from tests.support.reference_copies import CopiesReference
from tests.support.runs import drop_after

CLOSE = 1e-12  # relative, in float64
ROUNDS = 200
TOP_K = {"name": "top_k", "ratio": 0.3}
METHODS = {
    "byz_ef21": ({}, TOP_K),
    "byz_ef21_sgdm": ({"eta": 0.2}, TOP_K),
    "byz_dm21": ({"eta": 0.3}, TOP_K),
    "byz_vr_dm21": ({"eta": 0.3}, TOP_K),
    "byz_dasha_page": ({"p": 0.2}, RAND_K),
    "byz_clip21": ({"tau": 0.3, "beta1": 0.3, "beta2": 0.6, "sigma": 0.01}, RAND_K),
}
ATTACKS = ["bit_flip", "alie", "ipm", "mimic", "label_flip", "gaussian"]


def config(name, attack="none", *, compress=True, rounds=ROUNDS, **more):
    """A small run on heterogeneous shards, its rule robust to 2 of 7."""
    parameters, compression = METHODS[name]
    return {
        **BASE,
        "rounds": rounds,
        "clients": {"count": 7, "byzantine": 2},
        "data": {**BASE["data"], "split": "iid"},
        "method": {"name": name, "step_size": 0.3, "batch_size": 8, **parameters},
        "aggregation": {"rule": "trimmed_mean"},
        "attack": {"name": attack},
        "evaluate": {"every": rounds},
        **({"compression": compression} if compress else {}),
        **more,
    }


def expected(tree, lost=None):
    dataset = load_arrays(parse(tree).data.without("split"))
    return CopiesReference(tree, np.asarray(dataset.features), np.asarray(dataset.labels), lost).run()


def assert_close(x, reference):
    assert np.linalg.norm(x.numpy() - reference) < CLOSE * np.linalg.norm(reference)


@pytest.mark.parametrize("compress", [True, False], ids=["compressed", "whole"])
@pytest.mark.parametrize("name, attack", list(zip(METHODS, ATTACKS, strict=True)))
def test_a_run_equals_the_reference_across_a_kill(name, attack, compress, tmp_path):
    tree = config(name, attack, compress=compress)
    tree["checkpoint"] = {"every": 60, "keep": 3}
    whole = train_in(tree, tmp_path)
    assert_close(whole, expected(tree))
    assert drop_after(tmp_path, 190) > 0
    assert (train_in(tree, tmp_path, workers=3, resume=True) == whole).all()
    assert not any("news" in line for line in comparable(tmp_path, drop=()))


def news(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["round"]: line["news"] for line in lines if "news" in line}


def told(round_, *clients):
    return {round_: [f"client {c} starts afresh, because the server did not take its last message" for c in clients]}


@pytest.mark.parametrize("name", ["byz_ef21", "byz_vr_dm21", "byz_dasha_page", "byz_clip21"])
def test_a_lost_reply_costs_one_fresh_start_and_the_copies_stay_equal(name, tmp_path):
    lost = {3: {1, 4}, 10: {0, 6}, 11: {0}, 12: {0}, 20: {2}}

    class Losing(LocalServer):
        def collect(self, deadline):
            replies, round_ = super().collect(deadline), self._request.round.number
            return without(replies, dict.fromkeys(lost.get(round_, ()), "lost on the way"))

    def compare(server, round_):
        if round_ == 0:
            return
        bank = server._experiment.method.state["bank"]
        for handle in server._transport._workers:
            for (piece, client), memory in handle.__self__._memories._held.items():
                if piece == "method" and client not in lost.get(round_, ()):
                    assert torch.equal(memory["copy"], bank[client])
                    compared.add(client)

    compared = set()
    tree = config(name, rounds=40)
    trained = train(tree, tmp_path, tamper=compare, end=Losing)
    assert_close(trained.x, expected(tree, lost))
    assert compared == set(range(7))
    seen = {line["round"]: line["news"] for line in trained.metrics if "news" in line}
    assert seen == told(4, 1, 4) | told(11, 6) | told(13, 0) | told(21, 2)


def test_what_error_feedback_remembers_survives_a_kill_and_its_loss_is_reported(tmp_path):
    """Clients remember an error only of rounds that are compressed, and keep it in rounds in which they are not asked."""
    tree = case("bit_flip", {"name": "error_feedback", "compressor": TOP_K}, p=0.3) | {"rounds": 30}
    tree["checkpoint"] = {"every": 8, "keep": 100}
    whole = train_in(tree, tmp_path)
    assert drop_after(tmp_path, 20) > 0
    assert (train_in(tree, tmp_path, workers=3, resume=True) == whole).all()
    assert news(tmp_path) == {}
    last = drop_after(tmp_path, 15)
    (tmp_path / "checkpoint" / file_name(last, 2)).unlink()  # of clients 1, 3, 5, 7
    assert not (train_in(tree, tmp_path, workers=3, resume=True) == whole).all()
    texts = sorted(text for texts in news(tmp_path).values() for text in texts)
    assert texts == [f"client {client} lost what it remembered and starts afresh" for client in (1, 3, 5, 7)]


def test_all_transports_agree_on_compressors_and_on_replies_that_the_server_does_not_take(tmp_path):
    """In two of the runs clients send NaN: the server takes nothing, and tells them to start afresh; or they end in quarantine."""
    lossy = config("byz_vr_dm21", rounds=30) | {"attack": {"name": "nan", "rounds": [5, 8]}}
    trees, feedback = {"lossy": lossy}, {"name": "error_feedback", "compressor": TOP_K}
    compressions: list[tuple[dict[str, Any], str]]
    compressions = [({"name": "qsgd", "levels": 3}, "float32"), ({"name": "natural"}, "float64"), (feedback, "float32")]
    for compression, dtype in compressions:
        trees[compression["name"]] = case("bit_flip", compression, name="sgd") | {"rounds": 12, "dtype": dtype}
    trees["quarantine"] = case("nan", name="byz_vr_marina_pp_plus")
    lines, alone = [], {}
    for name, tree in trees.items():
        offences = {"offences": 3 if name == "quarantine" else 10**6}
        alone[name] = train_in(tree | {"transport": {"name": "local", **offences}}, tmp_path / name / "alone")
        for transport in ("star", "collective"):
            folder = tmp_path / name / transport
            folder.mkdir()
            write_config(folder, tree | {"transport": {"name": transport, **offences}})
            lines.append(f"{folder} 2\n")
    assert_close(alone["lossy"], expected(lossy | {"attack": {"name": "none"}}, dict.fromkeys(range(5, 9), {5, 6})))
    (tmp_path / "list").write_text("".join(lines))
    with Job([sys.executable, "-m", "tests.support.forks", str(tmp_path / "list")]) as job:
        assert job.wait(120) == 0, job.output
    for name, model in alone.items():
        for transport in ("star", "collective"):
            assert torch.equal(Run(tmp_path / name / transport / "run", "").model, model), (name, transport)
        assert ("quarantine" in str(news(tmp_path / name / "collective/run"))) == (name == "quarantine")
    for transport in ("star/run", "collective/run", "alone"):
        texts = {round_: texts for round_, texts in news(tmp_path / "lossy" / transport).items() if round_ > 1}
        assert texts == told(9, 5, 6)


@pytest.mark.timeout(200)
def test_a_star_whose_worker_and_then_all_are_killed_equals_the_reference(tmp_path):
    """A worker comes back without its memory; later a resumed run restores everybody's."""
    tree = config("byz_ef21", "bit_flip", rounds=900) | {
        "transport": {"name": "star", "min_replies": 5, "deadline": 20.0, "join_timeout": 60.0},
        "checkpoint": {"every": 50, "keep": 2},
    }
    path, run = write_config(tmp_path, tree), tmp_path / "run"
    job = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "BYZDIST_SECRET": "s" * 32}
    words = [sys.executable, "-m", "byzdist", "run", str(path), "--out", str(run), "--resume"]

    def start(rank):
        return Job(words, env={**job, "RANK": f"{rank}"})

    def wait_for(round_):
        until, metrics = time.monotonic() + 60, run / "metrics.jsonl"
        while not metrics.exists() or len(metrics.read_bytes().splitlines()) < round_:
            assert time.monotonic() < until, server.output
            time.sleep(0.01)

    with start(0) as server, start(1) as other:
        with start(2):
            wait_for(100)
        with start(2):
            wait_for(400)
            server.kill_all()
            other.kill_all()
    with start(0) as server, start(1), start(2):
        assert server.wait(100) == 0, server.output
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lost = {line["round"]: {int(client) for client in line["missing"]} for line in lines if line["missing"]}
    texts = [text for texts in news(run).values() for text in texts]
    assert 1 <= len(lost) and set.union(*lost.values()) <= {1, 3, 5}
    assert [text for text in texts if "afresh" in text] == [
        f"client {client} lost what it remembered and starts afresh" for client in (1, 3, 5)
    ]
    assert_close(Run(run, "").model, expected(tree, lost))
