import re
import zlib
from itertools import combinations

import numpy as np
from scipy.stats import kstest

from byzdist.randomness import stream
from tests.support.harness import ROOT

KEYS = [
    (0, "a", 0, 0),
    (1, "a", 0, 0),
    (0, "b", 0, 0),
    (0, "a", 1, 0),
    (0, "a", 0, 1),
    (2**63 - 1, "a", 10**6, 2**32 - 1),
]


def test_equal_keys_give_equal_numbers_and_other_keys_share_none():
    draws = [stream(*key).integers(2**63, size=4000) for key in KEYS]
    for key, drawn in zip(KEYS, draws, strict=True):
        assert np.array_equal(stream(*key).integers(2**63, size=4000), drawn)
    for one, other in combinations(draws, 2):
        assert not np.intersect1d(one, other).size


def test_streams_of_neighbouring_rounds_and_clients_do_not_run_into_each_other():
    # Philox counts blocks of four words: a stream that began where another one is after k blocks would repeat it.
    long = stream(3, "a", 5, 7).integers(2**63, size=100_000)
    for client, round_ in ((5, 8), (6, 7), (4, 7), (5, 6), (7, 5)):
        assert stream(3, "a", client, round_).integers(2**63, size=1)[0] not in long


def philox(key, counter):
    """One block of Philox4x64-10 (Salmon, Moraes, Dror, Shaw, SC 2011)."""
    (k0, k1), (a, b, c, d) = key, counter
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * a, 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * c, 2**64)
        a, b, c, d = high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % 2**64, (k1 + 0xBB67AE8584CAA73B) % 2**64
    return [a, b, c, d]


def test_a_stream_is_philox_keyed_by_seed_and_purpose_that_counts_from_client_and_round():
    seed, client, round_ = 12345, 6, 789
    key = (seed, zlib.crc32(b"batch"))
    expected = [*philox(key, (1, 0, client, round_)), *philox(key, (2, 0, client, round_))]
    assert stream(seed, "batch", client, round_).bit_generator.random_raw(8).tolist() == expected


def test_first_draws_over_rounds_are_uniform_and_uncorrelated():
    first = np.array([stream(0, "coin", 0, round_).random() for round_ in range(20_000)])
    assert kstest(first, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(len(first))


def test_all_purposes_in_the_code_have_keys_of_their_own():
    source = "".join(path.read_text() for path in (ROOT / "byzdist").rglob("*.py"))
    purposes = set(re.findall(r'\bstream\([^"()]*(?:\([^()]*\))?[^"()]*"([^"]+)"', source))
    purposes |= set(re.findall(r'\.rng\("([^"]+)"', source))
    assert {"cohort", "coin", "batch", "mask", "shared mask", "attack", "aggregation", "split"} <= purposes
    assert len({stream(0, purpose).random() for purpose in purposes}) == len(purposes)


def test_nothing_in_the_package_draws_from_a_global_generator():
    forbidden = re.compile(
        r"np\.random\.(?!Generator|Philox|default_rng)\w+|torch\.(rand|randn|randint|bernoulli)\(|import random\b"
    )
    for path in (ROOT / "byzdist").rglob("*.py"):
        if path.name != "generators.py":  # which seeds them for a user's code, and gives them back
            assert not forbidden.search(path.read_text()), path
