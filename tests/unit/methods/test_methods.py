from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from byzdist.methods import METHODS, ClientTask, Sizes
from byzdist.methods.byz_vr_marina_pp import ByzVRMarina, ByzVRMarinaPP, ByzVRMarinaPPPlus
from byzdist.methods.estimates import SGD, MomentumSGD
from byzdist.rounds import Messages, Round

SIZES = Sizes(clients=20, samples=320.0, dimension=100, nonzeros=100.0)


class Parabolas:
    """f_ij(x) = ‖x - c_ij‖²/2 with c_ij = (i, j), so a batch has the gradient x minus the mean of its centres."""

    def __init__(self):
        self.asked = []

    def samples(self, client):
        return 40

    def centre(self, client, batch):
        batch = np.arange(40) if batch is None else batch
        return torch.tensor([float(client), float(batch.mean())], dtype=torch.float64)

    def gradient(self, x, client, batch, out):
        self.asked.append(batch)
        out.copy_(x - self.centre(client, batch))

    def difference(self, new, old, client, batch, out):
        self.asked.append(batch)
        out.copy_(new - old)


def task(full=False, round_=3, client=2, previous=(1.0, 1.0)):
    x = torch.tensor([5.0, 50.0], dtype=torch.float64)
    return ClientTask(Round(round_, 9, full), client, x, None if full else torch.tensor(previous, dtype=torch.float64))


def message(method, *args, **kwargs):
    out, oracle = torch.full((2,), torch.nan, dtype=torch.float64), Parabolas()
    method.message(oracle, task(*args, **kwargs), out)
    return out, oracle.asked[0]


@pytest.mark.parametrize(
    "cohort, batch_size, nonzeros, p",
    [
        (4, 320, 100, 4 / 20),  # C/n
        (20, 32, 100, 32 / 320),  # b/m
        (20, 320, 5, 5 / 100),  # ζ/d
        (20, 320, 100, 1.0),
        (20, 640, 100, 1.0),  # a batch larger than the mean client
    ],
)
def test_p_is_the_least_of_the_three_ratios(cohort, batch_size, nonzeros, p):
    sizes = Sizes(20, 320.0, 100, nonzeros)
    method = ByzVRMarinaPP(step_size=0.1, cohort=cohort, batch_size=batch_size).resolved(sizes)
    assert method.p == pytest.approx(p) and method.full_cohort == 20


def test_what_is_given_is_kept():
    method = ByzVRMarinaPPPlus(step_size=0.1, cohort=4, full_cohort=7, p=0.5).resolved(SIZES)
    assert (method.p, method.full_cohort, method.cohort, type(method)) == (0.5, 7, 4, ByzVRMarinaPPPlus)
    assert SGD(step_size=0.1, cohort=4).resolved(SIZES).full_cohort == 20


def test_byz_vr_marina_is_everyone_and_no_clipping():
    method = ByzVRMarina(step_size=0.1).resolved(SIZES)
    assert (method.cohort, method.full_cohort, method.clip, method.p) == (20, 20, "none", 0.1)
    assert method.clip_level(3.0) is None


@pytest.mark.parametrize("p", [0.01, 0.3, 1.0])
def test_full_rounds_come_with_probability_p(p):
    method = ByzVRMarinaPP(step_size=0.1, cohort=4, p=p)
    full = sum(method.is_full(Round(round_, 5)) for round_ in range(5000))
    assert binomtest(full, 5000, p).pvalue > 1e-3
    assert not any(SGD(step_size=0.1, cohort=4).is_full(Round(round_, 5)) for round_ in range(100))


def test_round_0_asks_for_full_gradients_unless_told_otherwise():
    assert ByzVRMarinaPP(step_size=0.1, cohort=4).starts_full and SGD(step_size=0.1, cohort=4).starts_full
    assert not ByzVRMarinaPP(step_size=0.1, cohort=4, g0="zero").starts_full


@pytest.mark.parametrize(
    "clip, reference, level", [(2.0, "step", 2.0 * 0.25 * 5.0), (2.0, "gradient", 2.0 * 5.0), ("none", "step", None)]
)
def test_clip_levels(clip, reference, level):
    method = SGD(step_size=0.25, cohort=4, clip=clip, clip_reference=reference)
    assert method.clip_level(5.0) == level


@pytest.mark.parametrize(
    "caps, reference, level",
    [
        ({}, None, 10.0),
        ({}, 4.0, 10.0),
        ({}, 2.0, 8.0),  # twice 2.0, times clip and step size
        ({"clip_growth": 1.5}, 2.0, 6.0),
        ({"clip_growth": "none"}, 2.0, 10.0),
        ({"clip_max": 7.0}, None, 7.0),
        ({"clip_max": 7.0}, 2.0, 7.0),
        ({"clip_max": 9.0}, 2.0, 8.0),
        ({}, 0.0, 0.0),
    ],
)
def test_the_level_is_capped_absolutely_and_by_what_the_last_full_round_gave(caps, reference, level):
    method = SGD(step_size=0.5, cohort=4, clip=4.0, **caps)
    assert method.clip_level(5.0, reference) == level
    assert SGD(step_size=0.5, cohort=4, clip="none", **caps).clip_level(5.0, reference) is None


def test_a_sampled_client_sends_a_difference_on_one_batch():
    out, batch = message(ByzVRMarinaPP(step_size=0.1, cohort=4, batch_size=8))
    assert out.tolist() == [4.0, 49.0]
    assert len(batch) == len(set(batch.tolist())) == 8 and 0 <= min(batch) and max(batch) < 40


def test_a_full_round_takes_all_samples_or_the_larger_batch():
    out, batch = message(ByzVRMarinaPP(step_size=0.1, cohort=4), full=True)
    assert batch is None and out.tolist() == [3.0, 50.0 - 19.5]
    out, batch = message(ByzVRMarinaPP(step_size=0.1, cohort=4, full_batch=30), full=True)
    assert len(batch) == 30 and out.tolist() == [3.0, 50.0 - batch.mean()]


def test_batches_are_uniform_and_differ_between_clients_and_rounds():
    drawn = [task(round_=r, client=c).batch(40, 8) for r in range(250) for c in range(8)]
    counts = np.bincount(np.concatenate(drawn), minlength=40)
    assert abs(counts - 400).max() < 4.5 * (2000 * 0.2 * 0.8) ** 0.5
    assert len({tuple(batch.tolist()) for batch in drawn}) == len(drawn)


def test_momentum_is_kept_per_client_and_moves_only_when_the_client_takes_part():
    method: Any = MomentumSGD(step_size=0.1, cohort=4, momentum=0.75, batch_size=8)
    oracle = Parabolas()
    held, memories = {}, {2: {}, 3: {}}
    for round_, client in ((0, 2), (1, 3), (4, 2), (5, 2), (9, 3)):
        now = replace(task(round_=round_, client=client), memory=memories[client])
        out = torch.empty(2, dtype=torch.float64)
        method.message(oracle, now, out)
        gradient = now.x - oracle.centre(client, now.batch(40, 8))
        held[client] = gradient if client not in held else 0.75 * held[client] + 0.25 * gradient
        torch.testing.assert_close(out, held[client], rtol=1e-14, atol=0)
        out.fill_(torch.nan)  # what the client remembers is its own
    for client in (2, 3):
        torch.testing.assert_close(memories[client]["momentum"], held[client], rtol=1e-14, atol=0)


ROWS = [[1.0, 2.0], [3.0, 4.0]]


def updated(method, g=(3.0, 4.0)):
    """Return g after a round whose aggregation is the mean, and the rows and the level of that."""
    g, round_ = torch.tensor(g, dtype=torch.float64), Round(3, 9)
    level = method.clip_level(float(g.norm()))
    rows = method.rows(g, Messages(round_, [0, 1], torch.tensor(ROWS, dtype=torch.float64)), level)
    method.apply(g, rows.mean(0), round_, level)
    return g.tolist(), rows.tolist(), level


def test_differences_are_added_to_the_estimate():
    assert updated(ByzVRMarinaPP(step_size=0.5, cohort=2, clip=2.0)) == ([5.0, 7.0], ROWS, 5.0)


def test_estimates_are_clipped_around_the_last_one():
    deviations = [[-2.0, -2.0], [0.0, 0.0]]
    assert updated(SGD(step_size=0.5, cohort=2, clip=2.0)) == ([2.0, 3.0], deviations, 5.0)
    assert updated(SGD(step_size=0.5, cohort=2, clip="none")) == ([2.0, 3.0], ROWS, None)


def test_an_estimate_of_zero_is_clipped_around_like_any_other():
    assert updated(SGD(step_size=0.5, cohort=2, clip=2.0), g=(0.0, 0.0)) == ([2.0, 3.0], ROWS, 0.0)


def test_what_methods_say_of_themselves():
    methods: dict[str, Any] = {name: METHODS.get(name) for name in METHODS}
    differences = {name for name, method in methods.items() if method.sends_differences}
    assert differences - {name for name, method in methods.items() if method.keeps_copies} == {
        "byz_vr_marina",
        "byz_vr_marina_pp",
        "byz_vr_marina_pp_plus",
    }
    assert [name for name, method in methods.items() if method.plain_mean] == ["byz_vr_marina_pp_plus"]


@pytest.mark.parametrize(
    "make", [SGD, MomentumSGD, lambda **parameters: ByzVRMarinaPP(p=0.5, full_batch=7, **parameters)]
)
def test_shared_batches_are_at_the_same_positions_for_all_clients(make):
    for full in (False, True):
        drawn = {}
        for batches in ("independent", "shared"):
            method = make(step_size=0.1, cohort=4, batch_size=8, batches=batches)
            for client in (2, 11):
                here, oracle = task(full, client=client), Parabolas()
                method.message(oracle, replace(here, batches=batches), torch.empty(2, dtype=torch.float64))
                drawn[batches, client] = oracle.asked[0].tolist()
                assert method.positions(here.round, client, 40).tolist() == drawn[batches, client]
        assert drawn["shared", 2] == drawn["shared", 11]
        assert len({tuple(positions) for positions in drawn.values()}) == 3
