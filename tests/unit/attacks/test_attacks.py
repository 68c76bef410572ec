import threading
from datetime import timedelta

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from byzdist.attacks import ATTACKS, Context
from byzdist.attacks.assignment import Assignment
from byzdist.attacks.colluding import alie_z
from byzdist.attacks.collusion import Collusion
from byzdist.attacks.simple import label_flip
from byzdist.compression.identity import Identity
from byzdist.compression.rand_k import RandK, draw_mask
from byzdist.errors import ConfigError
from byzdist.randomness import stream
from byzdist.rounds import Round
from byzdist.torch_private import HashStore, TCPStore
from tests.support.standins import watched

HONEST = [3.0, -1.0, 0.5]
GOOD = {0: [1.0, 2.0, 0.0], 2: [3.0, 2.0, -6.0], 5: [2.0, 5.0, 0.0]}


def vector(values):
    return torch.tensor(values, dtype=torch.float64)


# x - x0 = (1, -1, 1), g = (previous - x)/γ = (1, 0, -2)
def context(
    cohort=(0, 2, 5, 8, 9), difference=True, colluders=GOOD, client=8, round_=4, full=False, compressor=None, **known
):
    return Context(
        round=Round(round_, 1, full, np.array(cohort)),
        client=client,
        honest=vector(HONEST),
        difference=difference,
        x=vector([1.0, 1.0, 1.0]),
        start=vector([0.0, 2.0, 0.0]),
        previous=vector([1.5, 1.0, 0.0]),
        step_size=0.5,
        clients=10,
        byzantine=frozenset(range(7, 10)),
        f=1,
        colluders={client: vector(values) for client, values in colluders.items()},
        rule=None,
        pre=None,
        clip=lambda g: 0.1 * float(g.norm()),
        compressor=compressor or Identity(),
        **known,
    )


@pytest.mark.parametrize(
    "name, expected",
    [
        ("none", HONEST),
        ("bit_flip", [-5.0, 1.0, 3.5]),
        ("label_flip", HONEST),  # the flip is in the data
        ("zero", [0.0, 0.0, 0.0]),
        ("inf", [torch.inf] * 3),
    ],
)
def test_simple_attacks(name, expected):
    assert ATTACKS.get(name)(context()).tolist() == expected


@pytest.mark.parametrize("name", ["bit_flip", "ipm"])
def test_flips_turn_the_estimate_around_or_the_difference_alone(name):
    """The server adds a difference to g: what comes out is the honest estimate (or the mean of them), turned around."""
    attack, times = ATTACKS.get(name), -1.0 if name == "bit_flip" else -0.1
    honest = vector(HONEST) if name == "bit_flip" else vector([2.0, 3.0, -2.0])  # the mean of GOOD
    g = vector([1.0, 0.0, -2.0])
    torch.testing.assert_close(g + attack(context()), times * (g + honest))
    torch.testing.assert_close(attack(context(difference=False)), times * honest)
    for difference in (True, False):
        torch.testing.assert_close(attack(context(difference=difference), form="difference"), times * honest)


def test_an_attacker_knows_g_and_the_clipping_level_in_rounds_of_every_kind():
    g = vector([1.0, 0.0, -2.0])
    for known in ({}, {"difference": False}, {"difference": False, "full": True}):
        now = context(**known)
        assert torch.equal(now.g, g)
        assert now.level == (None if now.full else pytest.approx(0.1 * 5**0.5))
    first = context(round_=0, difference=False, full=True)
    assert torch.equal(first.g, torch.zeros(3, dtype=torch.float64)) and first.level is None


def test_an_attacker_knows_which_coordinates_the_server_will_read():
    now, sent = context(compressor=RandK(ratio=0.5)), vector([1.0, 2.0, 3.0])
    read = now.delivered(sent)
    mask = draw_mask(stream(1, "mask", 8, 4), 3, 2)
    assert torch.equal(read.nonzero()[:, 0], mask) and torch.equal(read[mask], sent[mask] * 1.5)
    assert torch.equal(context().delivered(sent), sent)


def test_nan_sends_nans():
    assert ATTACKS.get("nan")(context()).isnan().all()


def test_label_flip_acts_on_the_data_and_the_others_on_vectors():
    assert hasattr(label_flip, "on_labels")
    assert [name for name in ATTACKS if hasattr(ATTACKS.get(name), "on_labels")] == ["label_flip"]
    assert [name for name in ATTACKS if hasattr(ATTACKS.get(name), "omniscient")] == ["alie", "ipm", "mimic"]


def test_gaussian_noise_has_the_given_deviation_and_a_stream_for_each_client_and_round():
    def noise(client, round_):
        now = context(client=client, round_=round_)
        object.__setattr__(now, "honest", torch.zeros(5000, dtype=torch.float64))
        return ATTACKS.get("gaussian")(now, sigma=2.0)

    first = noise(8, 4)
    assert kstest(first.numpy(), norm(scale=2).cdf).pvalue > 1e-3
    assert torch.equal(first, noise(8, 4))
    for other in (noise(9, 4), noise(8, 5)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 4.5 / 5000**0.5


def test_ipm_sends_minus_epsilon_times_the_mean_of_the_honest():
    assert ATTACKS.get("ipm")(context(difference=False), epsilon=0.5).tolist() == [-1.0, -1.5, 1.0]
    assert ATTACKS.get("ipm")(context(), epsilon=0.5).tolist() == [-2.5, -1.5, 4.0]


def test_alie_sends_the_mean_minus_z_deviations():
    mean, deviation = vector([2.0, 3.0, -2.0]), vector([2 / 3, 2.0, 8.0]).sqrt()
    torch.testing.assert_close(ATTACKS.get("alie")(context(), z=1.5), mean - 1.5 * deviation)
    z = norm.ppf(4 / 7)  # 10 clients, 3 Byzantine: s = floor(10/2 + 1) = 6, hence (10 - 6) / (10 - 3)
    for cohort in ((0, 2, 5, 8, 9), (0, 2, 5, 8), (0, 8)):  # however small
        torch.testing.assert_close(ATTACKS.get("alie")(context(cohort)), mean - z * deviation)
    torch.testing.assert_close(ATTACKS.get("alie")(context(), ddof=1), mean - z * deviation * 1.5**0.5)


@pytest.mark.parametrize(
    "clients, byzantine, z",
    [
        (50, 24, 1.4260768722728473),  # the example of Baruch et al.: 24/26 of the honest must be nearer, z = 1.43
        (50, 12, 0.33603814),
        (20, 5, 0.2533471031357997),  # 9/15
        (4, 1, 0.0),  # 1/3, whose quantile is -0.43: on the other side of the mean nothing is gained
        (20, 1, 0.0),
        (3, 1, 0.0),  # 1/2
        (1, 0, 0.0),  # 0/1
    ],
)
def test_alie_z(clients, byzantine, z):
    assert alie_z(clients, byzantine) == pytest.approx(z, abs=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_alie_hides_among_as_many_honest_clients_as_make_a_majority(data):
    """Of the honest, normally distributed, so many lie farther out than z that with all attackers they are a majority of n."""
    clients = data.draw(st.integers(1, 200))
    byzantine = data.draw(st.integers(0, (clients - 1) // 2))
    farther = norm.sf(alie_z(clients, byzantine)) * (clients - byzantine)
    needed = clients // 2 + 1 - byzantine
    assert farther == pytest.approx(min(needed, (clients - byzantine) / 2))


def test_alie_of_one_honest_client_is_its_vector():
    for ddof in (0, 1):
        assert ATTACKS.get("alie")(context(colluders={2: GOOD[2]}), z=3.0, ddof=ddof).tolist() == GOOD[2]


@pytest.mark.parametrize("target, chosen", [(0, 0), (1, 2), (2, 2), (3, 5), (5, 5), (6, 0)])
def test_mimic_repeats_its_target_or_the_next_honest_client_of_the_cohort(target, chosen):
    assert ATTACKS.get("mimic")(context(), target=target).tolist() == GOOD[chosen]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10**6))
def test_mimic_repeats_by_default_who_is_farthest_out_along_the_first_principal_direction(count, seed):
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, 3)) * (5, 1, 0.2)
    colluders = dict(zip(sorted(generator.choice(20, count, replace=False).tolist()), rows.tolist(), strict=True))
    chosen = ATTACKS.get("mimic")(context(colluders=colluders)).numpy()
    centered = rows - rows.mean(axis=0)
    projections = np.abs(centered @ np.linalg.svd(centered)[2][0])
    assert projections[(rows == chosen).all(axis=1)] == pytest.approx(projections.max(), rel=1e-6)
    if count == 2:
        assert chosen.tolist() == rows[0].tolist()  # as far out as the other


@pytest.mark.parametrize("name, expected", [("mimic", HONEST), ("ipm", [-0.3, 0.1, -0.05]), ("alie", HONEST)])
def test_omniscient_attacks_without_honest_clients_fall_back_on_their_own_vector(name, expected):
    now = context(cohort=(8, 9), colluders={}, difference=False)
    assert ATTACKS.get(name)(now).tolist() == pytest.approx(expected)


def test_omniscient_attacks_leave_the_honest_vectors_alone():
    for name in ("alie", "ipm", "mimic"):
        now = context()
        ATTACKS.get(name)(now)
        assert {client: v.tolist() for client, v in now.colluders.items()} == GOOD


@pytest.mark.parametrize(
    "cohort, majority",
    [((0, 8, 9), True), ((0, 2, 8, 9), False), ((0, 2, 5, 8, 9), False), ((8,), True), ((0, 8), False)],
)
def test_shift_back_waits_for_a_strict_majority(cohort, majority):
    honest = ATTACKS.get("shift_back")(context(cohort)).tolist() == HONEST
    assert honest != majority


def test_shift_back_pulls_towards_the_start():
    assert ATTACKS.get("shift_back")(context((7, 8, 9))).tolist() == [0.0, -1.0, 3.0]
    assert ATTACKS.get("shift_back")(context((7, 8, 9)), scale=3.0).tolist() == [2.0, -3.0, 5.0]
    assert ATTACKS.get("shift_back")(context((7, 8, 9), difference=False)).tolist() == [1.0, -1.0, 1.0]


def test_a_plain_mean_of_shift_back_lands_on_the_start():
    """With every client an attacker and scale 1/γ, x - γ(g + difference) is x^0: what the attack is for."""
    now = context((7, 8, 9))
    for scale in (2.0, "auto"):
        after = now.x - now.step_size * (now.g + ATTACKS.get("shift_back")(now, scale=scale))
        assert torch.equal(after, now.start)


CPU = torch.device("cpu")


def channel(store, patience=0.4):
    return Collusion(lambda: store, 3, torch.float64, patience)


def listed(vectors):
    return {client: vector.tolist() for client, vector in vectors.items()}


def test_the_collusion_channel_passes_vectors_on_unchanged_and_forgets_old_rounds():
    store = HashStore()
    one, other = channel(store), channel(store)
    one.publish(3, 0, vector(GOOD[0]))
    one.publish(3, 2, vector(GOOD[2]))
    assert listed(other.gather(3, [0, 2], CPU)) == {0: GOOD[0], 2: GOOD[2]}
    one.publish(4, 0, vector(GOOD[5]))
    assert channel(store).gather(3, [0], CPU) == {} and other.gather(4, [0], CPU)[0].tolist() == GOOD[5]
    assert other.gather(5, [], CPU) == {}


def test_the_collusion_channel_waits_half_a_deadline_a_round_for_what_may_still_come():
    store = HashStore()
    channel(store).publish(1, 2, vector(GOOD[2]))
    impatient = channel(store, patience=0.1)
    with watched(HashStore, "wait") as waits:
        for _ in range(3):  # a worker with several attackers asks for each
            assert listed(impatient.gather(1, [0, 2, 5], CPU)) == {2: GOOD[2]}
    assert [patience for _, _, patience in waits] == [timedelta(seconds=0.05)]
    late = threading.Timer(0.05, lambda: channel(store).publish(1, 0, vector(GOOD[0])))
    late.start()
    assert sorted(channel(store, patience=30).gather(1, [0, 2], CPU)) == [0, 2]
    late.join()


def test_the_collusion_channel_takes_vectors_that_are_longer_than_a_value_of_the_store():
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5), wait_for_workers=False)
    long = torch.arange(2_200_000, dtype=torch.float32)
    one, other = (Collusion(lambda: store, len(long), torch.float32, 1.0) for _ in range(2))
    one.publish(1, 0, long)
    assert torch.equal(other.gather(1, [0], CPU)[0], long)
    kept = store.num_keys()
    one.publish(2, 0, long)
    assert store.num_keys() == kept


def test_the_collusion_channel_delivers_on_the_device_that_is_asked_for():
    store = HashStore()
    channel(store).publish(1, 0, vector(GOOD[0]))
    assert channel(store).gather(1, [0], torch.device("meta"))[0].is_meta


def own(attack):
    return Assignment("mine:push", attack, {}, (8,), None)


def test_what_an_attack_of_a_users_own_returns_takes_the_form_of_the_honest_vector():
    sent = own(lambda now: (2 * now.honest).float()).vector(context())
    assert torch.equal(sent, 2 * vector(HONEST)) and sent.dtype == torch.float64


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda now: None, r"attack: 'mine:push' must return .* shape, \[3\] \(it returned a NoneType\)"),
        (lambda now: torch.ones(2), r"must return .* \(it returned \[2\] of float32\)"),
        (lambda now: now.honest * 1j, r"must return .* \(it returned \[3\] of complex128\)"),
        (
            lambda now: now.honest / {}[now.client],
            r"'mine:push' ended in round 4 with KeyError: 8 \(.*test_attacks.py:\d+, in <lambda>\)",
        ),
    ],
)
def test_an_attack_of_a_users_own_that_fails_is_named(attack, message):
    with pytest.raises(ConfigError, match=message):
        own(attack).vector(context())
