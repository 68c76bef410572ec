import threading
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy.stats import kstest, norm

from byzdist.attacks import ATTACKS, Situation
from byzdist.attacks.collusion import Collusion
from byzdist.attacks.omniscient import alie_z
from byzdist.attacks.simple import label_flip

HONEST = [3.0, -1.0, 0.5]
GOOD = {0: [1.0, 2.0, 0.0], 2: [3.0, 2.0, -6.0], 5: [2.0, 5.0, 0.0]}


def vector(values):
    return torch.tensor(values, dtype=torch.float64)


def situation(cohort=(0, 2, 5, 8, 9), byzantine=range(7, 10), difference=True, colluders=GOOD, client=8, round_=4):
    return Situation(
        round=round_,
        client=client,
        seed=1,
        honest=vector(HONEST),
        difference=difference,
        x=vector([1.0, 1.0, 1.0]),
        start=vector([0.0, 2.0, 0.0]),
        previous=vector([1.5, 1.0, 0.0]),
        step_size=0.5,
        cohort=np.array(cohort),
        byzantine=frozenset(byzantine),
        colluders={client: vector(values) for client, values in colluders.items()},
    )


@pytest.mark.parametrize(
    "name, expected",
    [
        ("none", HONEST),
        ("bit_flip", [-3.0, 1.0, -0.5]),
        ("label_flip", HONEST),  # the flip is in the data
        ("zero", [0.0, 0.0, 0.0]),
        ("inf", [torch.inf] * 3),
    ],
)
def test_simple_attacks(name, expected):
    assert ATTACKS.get(name)(situation()).tolist() == expected


def test_nan_sends_nans():
    assert ATTACKS.get("nan")(situation()).isnan().all()


def test_label_flip_acts_on_the_data_and_the_others_on_vectors():
    assert label_flip.on_labels
    assert [name for name in ATTACKS if hasattr(ATTACKS.get(name), "on_labels")] == ["label_flip"]
    assert [name for name in ATTACKS if hasattr(ATTACKS.get(name), "omniscient")] == ["alie", "ipm", "mimic"]


def test_gaussian_noise_has_the_given_deviation_and_a_stream_for_each_client_and_round():
    def noise(client, round_):
        now = situation(client=client, round_=round_)
        object.__setattr__(now, "honest", torch.zeros(5000, dtype=torch.float64))
        return ATTACKS.get("gaussian")(now, sigma=2.0)

    first = noise(8, 4)
    assert kstest(first.numpy(), norm(scale=2).cdf).pvalue > 1e-3
    assert torch.equal(first, noise(8, 4))
    for other in (noise(9, 4), noise(8, 5)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 4.5 / 5000**0.5


def test_ipm_sends_minus_epsilon_times_the_mean_of_the_honest():
    assert ATTACKS.get("ipm")(situation(), epsilon=0.5).tolist() == [-1.0, -1.5, 1.0]


def test_alie_sends_the_mean_minus_z_deviations():
    mean, deviation = vector([2.0, 3.0, -2.0]), vector([2 / 3, 2.0, 8.0]).sqrt()
    torch.testing.assert_close(ATTACKS.get("alie")(situation(), z=1.5), mean - 1.5 * deviation)
    z = norm.ppf(2 / 3)  # 5 in the cohort, 2 Byzantine: s = floor(5/2 + 1) = 3, hence (5 - 3) / (5 - 2)
    torch.testing.assert_close(ATTACKS.get("alie")(situation()), mean - z * deviation)


@pytest.mark.parametrize(
    "cohort, byzantine, z",
    [
        (50, 24, 1.4260768722728473),  # the example of Baruch et al.: 24/26 of the honest must be nearer, z = 1.43
        (50, 12, 0.33603814),
        (20, 5, 0.2533471031357997),  # 9/15
        (4, 1, -0.43072729929545744),  # 1/3
        (4, 3, 0.0),  # 1/1 is no probability that a normal variable reaches
        (4, 4, 0.0),  # nobody honest
        (1, 0, 0.0),  # 0/1
    ],
)
def test_alie_z(cohort, byzantine, z):
    assert alie_z(cohort, byzantine) == pytest.approx(z, abs=1e-7)


def test_alie_of_one_honest_client_is_its_vector():
    assert ATTACKS.get("alie")(situation(colluders={2: GOOD[2]}), z=3.0).tolist() == GOOD[2]


@pytest.mark.parametrize("target, chosen", [(0, 0), (1, 2), (2, 2), (3, 5), (5, 5), (6, 0)])
def test_mimic_repeats_its_target_or_the_next_honest_client_of_the_cohort(target, chosen):
    assert ATTACKS.get("mimic")(situation(), target=target).tolist() == GOOD[chosen]


@pytest.mark.parametrize("name, expected", [("mimic", HONEST), ("ipm", [-0.3, 0.1, -0.05]), ("alie", HONEST)])
def test_omniscient_attacks_without_honest_clients_fall_back_on_their_own_vector(name, expected):
    assert ATTACKS.get(name)(situation(cohort=(8, 9), colluders={})).tolist() == pytest.approx(expected)


def test_omniscient_attacks_leave_the_honest_vectors_alone():
    for name in ("alie", "ipm", "mimic"):
        now = situation()
        ATTACKS.get(name)(now)
        assert {client: v.tolist() for client, v in now.colluders.items()} == GOOD


@pytest.mark.parametrize(
    "cohort, majority",
    [((0, 8, 9), True), ((0, 2, 8, 9), False), ((0, 2, 5, 8, 9), False), ((8,), True), ((0, 8), False)],
)
def test_shift_back_waits_for_a_strict_majority(cohort, majority):
    honest = ATTACKS.get("shift_back")(situation(cohort)).tolist() == HONEST
    assert honest != majority


def test_shift_back_pulls_towards_the_start():
    # x - x0 = (1, -1, 1), g = (previous - x)/γ = (1, 0, -2)
    assert ATTACKS.get("shift_back")(situation((7, 8, 9))).tolist() == [0.0, -1.0, 3.0]
    assert ATTACKS.get("shift_back")(situation((7, 8, 9)), scale=3.0).tolist() == [2.0, -3.0, 5.0]
    assert ATTACKS.get("shift_back")(situation((7, 8, 9), difference=False)).tolist() == [1.0, -1.0, 1.0]


def test_a_plain_mean_of_shift_back_lands_on_the_start():
    """With γ = 1 and every client an attacker, x - γ(g + difference) is x^0: what the attack is for."""
    now = situation((7, 8, 9))
    g = (now.previous - now.x) / now.step_size
    after = now.x - 1.0 * (g + ATTACKS.get("shift_back")(now))
    assert torch.equal(after, now.start)


CPU = torch.device("cpu")


def channel(store, patience=0.4):
    return Collusion(lambda: store, 3, torch.float64, patience)


def listed(vectors):
    return {client: vector.tolist() for client, vector in vectors.items()}


def test_the_collusion_channel_passes_vectors_on_unchanged_and_forgets_old_rounds():
    store = dist.HashStore()
    one, other = channel(store), channel(store)
    one.publish(3, 0, vector(GOOD[0]))
    one.publish(3, 2, vector(GOOD[2]))
    assert listed(other.gather(3, [0, 2], CPU)) == {0: GOOD[0], 2: GOOD[2]}
    one.publish(4, 0, vector(GOOD[5]))
    assert channel(store).gather(3, [0], CPU) == {} and other.gather(4, [0], CPU)[0].tolist() == GOOD[5]
    assert other.gather(5, [], CPU) == {}


def test_the_collusion_channel_waits_half_a_deadline_a_round_for_what_may_still_come():
    store, began = dist.HashStore(), time.monotonic()
    channel(store).publish(1, 2, vector(GOOD[2]))
    impatient = channel(store, patience=1.0)
    for _ in range(3):  # a worker with several attackers asks for each
        assert listed(impatient.gather(1, [0, 2, 5], CPU)) == {2: GOOD[2]}
    assert 0.45 < time.monotonic() - began < 0.9
    late = threading.Timer(0.2, lambda: channel(store).publish(1, 0, vector(GOOD[0])))
    late.start()
    assert sorted(channel(store, patience=30).gather(1, [0, 2], CPU)) == [0, 2]
    late.join()


def test_the_collusion_channel_takes_vectors_that_are_longer_than_a_value_of_the_store():
    store = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5), wait_for_workers=False)
    long = torch.arange(2_200_000, dtype=torch.float32)
    one, other = (Collusion(lambda: store, len(long), torch.float32, 1.0) for _ in range(2))
    one.publish(1, 0, long)
    assert torch.equal(other.gather(1, [0], CPU)[0], long)
    kept = store.num_keys()
    one.publish(2, 0, long)
    assert store.num_keys() == kept


def test_the_collusion_channel_delivers_on_the_device_that_is_asked_for():
    store = dist.HashStore()
    channel(store).publish(1, 0, vector(GOOD[0]))
    assert channel(store).gather(1, [0], torch.device("meta"))[0].is_meta
