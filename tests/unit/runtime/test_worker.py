from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from byzdist.attacks import ATTACKS, knows_estimate, knows_rule
from byzdist.compression.rand_k import draw_mask
from byzdist.config.reading import parse
from byzdist.randomness import stream
from byzdist.rounds import Round
from byzdist.runtime.experiment import prepare
from byzdist.runtime.worker import Worker
from byzdist.transport.base import Received, WorkerEnd
from tests.support.cases import RAND_K, case

X, PREVIOUS = (torch.linspace(-1, end, 12, dtype=torch.float64) for end in (1, 2))


class Scripted(WorkerEnd):
    """Hands out the given requests and keeps the replies."""

    def __init__(self, requests):
        self.requests, self.replies = list(requests), []

    def receive(self):
        return self.requests.pop(0) if self.requests else None

    def room(self, length):
        return torch.zeros(length, dtype=torch.uint8)

    def reply(self, reply):
        self.replies.append((reply.round.number, reply.client, reply.payload.view(torch.float64)))

    def answer(self, order, stage):
        raise AssertionError


def replies(config, requests, rank=1, workers=2):
    config = parse(config)
    experiment = prepare(config, torch.device("cpu"))
    worker = Worker(experiment)
    hosted = [
        replace(request, mine=experiment.shape(workers).hosted(request.round.cohort, rank)) for request in requests
    ]
    transport = Scripted(hosted)
    worker.run(transport)
    return transport.replies


def request(cohort, round_=3, full=False):
    return Received(Round(round_, 5, full, np.array(cohort)), [], X, None if full else PREVIOUS)


def test_a_worker_answers_for_the_clients_it_hosts_in_their_order():
    requests = [request([0, 1, 3, 4, 6, 8]), request([1, 3]), request([2, 7], round_=4)]
    for rank, expected in (
        (1, [(3, 0), (3, 4), (3, 6), (3, 8), (4, 2)]),
        (2, [(3, 1), (3, 3), (3, 1), (3, 3), (4, 7)]),
    ):
        assert [(round_, client) for round_, client, _ in replies(case("none"), requests, rank)] == expected


def test_what_is_sent_does_not_depend_on_who_hosts_the_client_or_what_was_sent_before():
    alone = replies(case("none"), [request([4])], rank=5, workers=9)[0][2]
    crowded = replies(
        case("none"), [request(range(9), full=True), request(range(9), round_=2), request([2, 4])], rank=1
    )
    assert torch.equal(crowded[-1][2], alone)
    assert not torch.equal(replies(case("none"), [request([4], round_=4)], rank=1)[0][2], alone)


def test_full_rounds_are_not_compressed_and_sampled_ones_carry_the_kept_values_alone():
    config = case("none", RAND_K)
    (_, _, full), (_, _, sampled) = replies(config, [request([4], full=True), request([4])])
    (_, _, dense) = replies(case("none"), [request([4])])[0]
    assert len(full) == 12 and len(sampled) == 5
    mask = draw_mask(stream(5, "mask", 4, 3), 12, 5)
    assert torch.equal(sampled, dense[mask] * (12 / 5))


@pytest.mark.parametrize("client, attacks", [(4, False), (6, True)])
def test_the_last_clients_attack_and_the_others_do_not(client, attacks):
    honest, sent = (replies(case(name), [request([client], full=True)])[0][2] for name in ("none", "bit_flip"))
    assert torch.equal(sent, -honest if attacks else honest)


def test_a_list_of_attacks_goes_by_client_and_round():
    attacks = [{"name": "zero", "clients": [6]}, {"name": "bit_flip", "form": "difference", "rounds": [3, 4]}]
    config = {**case("none"), "attack": attacks}
    honest = {(r, c): v for r, c, v in replies(case("none"), [request([6, 8], r) for r in (2, 3, 4, 5)])}
    sent = {(r, c): v for r, c, v in replies(config, [request([6, 8], r) for r in (2, 3, 4, 5)])}
    for (round_, client), vector in sent.items():
        expected = honest[round_, client]
        if client == 6:
            expected = torch.zeros(12, dtype=torch.float64)
        elif round_ in (3, 4):
            expected = -expected
        assert torch.equal(vector, expected), (round_, client)


def test_flipped_labels_turn_a_full_gradient_of_plain_logistic_regression_around():
    config = case("none")
    config["model"] = {"name": "logistic_regression", "l2": 0.0}
    at_zero = Received(Round(0, 5, True, np.array([6])), [], torch.zeros(12, dtype=torch.float64), None)
    honest = replies(config, [at_zero])[0][2]
    flipped = replies({**config, "attack": {"name": "label_flip"}}, [at_zero])[0][2]
    torch.testing.assert_close(flipped, -honest)  # at x = 0 both classes have probability one half


@pytest.mark.parametrize("method, full, known", [({}, False, True), ({}, True, False), ({"name": "sgd"}, False, False)])
def test_an_attack_knows_the_model_before_where_the_round_needs_it_or_it_says_that_it_does(
    monkeypatch, method, full, known
):
    def spy(now):
        seen.append(now)
        return now.honest

    # Some workers hold x^{k-1} all the same, for other clients' sake: the run must not depend on it.
    received = Received(Round(3, 5, full, np.array([6])), [], X, PREVIOUS)
    for attack, knows in ((spy, known), (knows_estimate(partial(spy)), True)):
        seen = []
        monkeypatch.setitem(ATTACKS._entries, "zero", attack)
        replies(case("zero", **method), [received])
        (now,) = seen
        assert (now.previous is not None) == knows
        if knows:
            torch.testing.assert_close(now.g, (PREVIOUS - X) / 0.3)
            assert now.level == (None if full else pytest.approx(float((PREVIOUS - X).norm())))
        assert (now.full, now.difference) == (full, not full and not method)


def test_an_attack_is_told_the_rule_if_it_says_so_and_how_many_the_server_expects(monkeypatch):
    def spy(now):
        seen.append(now)
        return now.honest

    seen = []
    for attack in (spy, knows_rule(partial(spy))):
        monkeypatch.setitem(ATTACKS._entries, "zero", attack)
        replies(case("zero"), [request([0, 1, 4, 6, 7])])
    plain, told = seen
    assert plain.rule is None and plain.pre is None
    assert (told.rule.name, told.pre[0].parameters["size"]) == ("coordinate_median", 2)
    assert plain.f == told.f == 2 and plain.clients == 9  # 4 of 9 are declared Byzantine, 5 are asked
