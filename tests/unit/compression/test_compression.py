import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from byzdist.compression.identity import Identity
from byzdist.compression.rand_k import RandK, draw_mask
from byzdist.randomness import stream
from byzdist.rounds import Round


def compressed(compressor, vector, seed=0, round_=0, client=0):
    """Encode and decode through bytes, as on the wire."""
    payload = torch.full((compressor.length(len(vector), vector.dtype),), 255, dtype=torch.uint8)
    compressor.encode(vector.clone(), payload, Round(round_, seed), client, {})
    result = torch.full_like(vector, torch.nan)
    compressor.decode(payload, result, Round(round_, seed), client, {})
    return result


def vector(dimension, dtype=torch.float64):
    return torch.from_numpy(stream(0, "test vector").standard_normal(dimension)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identity_changes_no_bit(dtype):
    v = vector(17, dtype)
    assert torch.equal(compressed(Identity(), v), v)
    assert Identity().length(17, dtype) == 17 * dtype.itemsize
    assert Identity().nonzeros(17) == 17


def test_identity_writes_nothing_where_the_vector_is_the_payload():
    payload = torch.zeros(32, dtype=torch.uint8)
    v = payload.view(torch.float64)
    v.copy_(torch.arange(4.0))
    Identity().encode(v, payload, Round(0, 0), 0, {})
    Identity().decode(payload, v, Round(0, 0), 0, {})
    assert v.tolist() == [0, 1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(dimension=st.integers(1, 300), ratio=st.floats(1e-3, 1), seed=st.integers(0, 2**63 - 1), shared=st.booleans())
def test_rand_k_keeps_k_scaled_coordinates_and_zeros_the_others(dimension, ratio, seed, shared):
    compressor = RandK(ratio=ratio, support="shared" if shared else "independent")
    v = vector(dimension).abs() + 1  # no zeros of its own
    kept = compressed(compressor, v, seed, 4, 2)
    k = int(np.ceil(ratio * dimension))
    support = kept.nonzero().flatten()
    assert len(support) == k == compressor.nonzeros(dimension)
    assert torch.equal(kept[support], v[support] * (dimension / k))
    assert compressor.length(dimension, v.dtype) == 8 * k  # values alone: the server knows where they belong
    assert kept.norm() <= dimension / k * v.norm() * (1 + 1e-12)  # D_Q


@pytest.mark.parametrize("support", ["independent", "shared"])
def test_rand_k_is_unbiased_and_its_variance_is_omega(support):
    compressor, v, draws = RandK(ratio=0.3, support=support), vector(40), 2000
    samples = torch.stack([compressed(compressor, v, 7, round_) for round_ in range(draws)])
    omega = 40 / 12 - 1
    # Each coordinate is d/K·v or 0: of variance omega·v², so the mean of the draws is within 4.5 standard errors of v.
    assert ((samples.mean(0) - v).abs() <= 4.5 * (omega / draws) ** 0.5 * v.abs()).all()
    squared = (samples - v).square().sum(1)  # E = omega·‖v‖², with equality; again 4.5 standard errors
    assert abs(squared.mean() - omega * v.square().sum()) <= 4.5 * squared.std() / draws**0.5


def test_the_mask_is_the_servers_for_client_and_round():
    def support(kind, round_, client):
        return tuple(
            compressed(RandK(ratio=0.2, support=kind), torch.ones(50), 1, round_, client).nonzero().flatten().tolist()
        )

    assert len({support("independent", round_, client) for round_ in range(10) for client in range(10)}) == 100
    shared = [{support("shared", round_, client) for client in range(10)} for round_ in range(10)]
    assert all(len(masks) == 1 for masks in shared) and len(set.union(*shared)) == 10


def test_independent_masks_overlap_as_independent_ones_do():
    overlaps = []
    for round_ in range(2000):
        one, other = (draw_mask(stream(0, "mask", client, round_), 30, 10) for client in (3, 4))
        overlaps.append(len(np.intersect1d(one, other)))
    # Hypergeometric: mean K²/d, variance K²/d·(1 - K/d)·(d - K)/(d - 1).
    deviation = (100 / 30 * (20 / 30) * (20 / 29)) ** 0.5
    assert abs(np.mean(overlaps) - 100 / 30) < 4.5 * deviation / 2000**0.5


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_every_mask_is_equally_likely(count):
    counts: dict[tuple[int, ...], int] = {}
    for round_ in range(3000):
        mask = tuple(draw_mask(stream(2, "mask", 0, round_), 6, count).tolist())
        assert list(mask) == sorted(set(mask)) and len(mask) == count
        counts[mask] = counts.get(mask, 0) + 1
    assert chisquare(list(counts.values())).pvalue > 1e-3
    assert len(counts) == {1: 6, 2: 15, 3: 20, 4: 15, 5: 6}[count]


@pytest.mark.parametrize("dimension, count", [(1, 1), (7, 7), (7, 0)])
def test_masks_of_all_or_nothing(dimension, count):
    assert draw_mask(stream(0, "mask"), dimension, count).tolist() == list(range(dimension))[:count]


def test_what_is_not_finite_comes_out_not_finite():
    for value in (torch.nan, torch.inf):
        kept = compressed(RandK(ratio=0.25), torch.full((16,), value, dtype=torch.float64))
        assert int((~kept.isfinite()).sum()) == 4
