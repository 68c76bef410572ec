"""Compressors that round, keep the largest, or remember: against their definitions, and for any bytes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byzdist.compression import COMPRESSORS
from byzdist.compression.bits import pack, packed_length, unpack
from byzdist.compression.error_feedback import ErrorFeedback
from byzdist.compression.natural import Natural
from byzdist.compression.qsgd import QSGD
from byzdist.compression.rand_k import RandK
from byzdist.compression.top_k import TopK
from byzdist.errors import ConfigError
from byzdist.registry import RunFacts
from byzdist.rounds import Round
from tests.unit.compression.test_compression import compressed, vector

UNBIASED = {"qsgd 1": QSGD(levels=1), "qsgd 5": QSGD(levels=5), "natural": Natural()}
ALL = {
    **UNBIASED,
    "top_k": TopK(ratio=0.3),
    "error feedback": ErrorFeedback(compressor={"name": "top_k", "ratio": 0.3}),
}
DTYPES = [torch.float32, torch.float64]


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 70), bits=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_codes_are_packed_without_loss(count, bits, seed):
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**bits, count))
    out = torch.zeros(packed_length(count, bits), dtype=torch.uint8)
    pack(codes, bits, out)
    assert torch.equal(unpack(out, count, bits), codes)
    assert packed_length(count, bits) * 8 <= bits * (count + 7)  # less than a group more than the bits themselves


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNBIASED)
def test_rounding_is_unbiased(name, dtype):
    v = vector(30, dtype)
    v += 0.3 * v.sign()  # so that each is rounded up often enough
    drawn = [compressed(UNBIASED[name], v.repeat(25), 7, round_) for round_ in range(50)]
    samples = torch.cat(drawn).view(-1, 30).double()
    # 30 means: 5 standard errors of each; a value that is never rounded differently has none.
    assert ((samples - v).mean(0).abs() <= 5 * samples.std(0) / len(samples) ** 0.5 + 1e-6 * v.abs()).all()


@pytest.mark.parametrize("name", UNBIASED)
def test_the_variance_is_at_most_omega_and_the_norm_at_most_d_q(name):
    compressor, v = UNBIASED[name], vector(30)
    samples = torch.stack([compressed(compressor, v, 7, round_) for round_ in range(60)])
    squared = (samples - v).square().sum(1)
    assert squared.mean() - 5 * squared.std() / 60**0.5 <= compressor.omega(30) * v.square().sum()
    assert (samples.norm(dim=1) <= compressor.norm_bound(30) * v.norm() * (1 + 1e-6)).all()


@pytest.mark.parametrize("levels", [1, 2, 3, 100])
def test_qsgd_rounds_to_the_levels_around(levels):
    v = vector(50)
    size = float(v.norm())
    kept = compressed(QSGD(levels=levels), v) * levels / size
    assert torch.allclose(kept, kept.round(), atol=1e-5)
    assert ((kept - v * levels / size).abs() < 1 + 1e-5).all()
    assert QSGD(levels=levels).length(50, v.dtype) == 4 + packed_length(50, int(np.ceil(np.log2(2 * levels + 1))))
    assert compressed(QSGD(levels=levels), torch.zeros(9)).tolist() == [0.0] * 9
    one = torch.tensor([0.0, -3.5, 0.0])
    assert torch.equal(compressed(QSGD(levels=levels), one), one)  # the norm, at the highest level


@pytest.mark.parametrize("dtype", DTYPES)
def test_natural_compression_keeps_powers_of_two_and_rounds_others_to_a_neighbour(dtype):
    powers = torch.tensor([2.0**k for k in range(-126, 128)] + [0.0], dtype=dtype)
    for signed in (powers, -powers):
        assert torch.equal(compressed(Natural(), signed), signed)
    v = vector(400, dtype)
    ratio = compressed(Natural(), v) / v
    assert (ratio > 0.5).all() and (ratio <= 2.0).all() and ratio.max() > 1.8
    tiny = torch.tensor([2.0**-127] * 300, dtype=dtype)
    assert set(compressed(Natural(), tiny).tolist()) == {0.0, 2.0**-126}
    assert Natural().length(400, dtype) == 450  # 9 bits a value


@pytest.mark.parametrize("dtype", DTYPES)
def test_top_k_keeps_the_largest_unscaled_and_contracts(dtype):
    compressor, v = TopK(ratio=0.3), vector(41, dtype)
    kept, k = compressed(compressor, v), 13
    largest = v.abs().argsort(descending=True)[:k]
    assert torch.equal(kept[largest], v[largest]) and int(kept.count_nonzero()) == k == compressor.nonzeros(41)
    assert (kept - v).square().sum() <= (1 - k / 41) * v.square().sum()
    assert compressor.length(41, dtype) == k * (dtype.itemsize + 4) and not compressor.unbiased
    assert (compressed(compressor, torch.full((9,), 2.0, dtype=dtype)) > 0).sum() == 3  # ties


@pytest.mark.parametrize("coordinates", [[0, 0, 4], [2, 1, 3], [-1, 1, 2], [7, 8, 10], [0, 1, 2**31 - 1]])
def test_coordinates_that_are_none_spoil_the_whole_row(coordinates):
    values = torch.ones(3, dtype=torch.float64)
    payload = torch.cat([values.view(torch.uint8), torch.tensor(coordinates, dtype=torch.int32).view(torch.uint8)])
    row = torch.zeros(10, dtype=torch.float64)
    TopK(ratio=0.3).decode(payload, row, Round(0, 0), 0, {})
    assert row.isnan().all()


def test_a_code_that_is_no_level_becomes_nan():
    payload = torch.cat([torch.ones(1).view(torch.uint8), torch.tensor([255, 255], dtype=torch.uint8)])
    row = torch.zeros(8)
    QSGD(levels=1).decode(payload, row, Round(0, 0), 0, {})
    assert row.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_any_bytes_can_be_decoded(name, dtype):
    compressor, generator = ALL[name], np.random.default_rng(0)
    for dimension in (1, 2, 9, 64):
        for _ in range(8):
            length = compressor.length(dimension, dtype)
            payload = torch.from_numpy(generator.integers(0, 256, length, dtype=np.uint8))
            before, row = payload.clone(), torch.empty(dimension, dtype=dtype)
            compressor.decode(payload, row, Round(1, 2), 3, {})
            assert torch.equal(payload, before)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_comes_out_not_finite(name, value):
    v = vector(20)
    v[3] = value
    assert not compressed(ALL[name], v).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [{"name": "top_k", "ratio": 0.1}, {"name": "natural"}, "identity"])
def test_with_error_feedback_everything_is_sent_in_the_end(inner, dtype):
    compressor, memory, d = ErrorFeedback(compressor=inner), {}, 40
    total, received = torch.zeros(d, dtype=dtype), torch.zeros(d, dtype=dtype)
    for round_ in range(30):
        v, row = vector(d, dtype) * (round_ % 7), torch.empty(d, dtype=dtype)
        payload = torch.empty(compressor.length(d, dtype), dtype=torch.uint8)
        compressor.encode(v, payload, Round(round_, 1), 2, memory)
        compressor.decode(payload, row, Round(round_, 1), 2, {})
        total += v
        received += row
    torch.testing.assert_close(received + memory["error"], total)
    assert (inner == "identity") == (memory["error"].count_nonzero() == 0)


def test_error_feedback_forgets_an_error_that_is_not_finite():
    compressor, memory = ErrorFeedback(compressor={"name": "top_k", "ratio": 0.5}), {}
    payload = torch.empty(compressor.length(4, torch.float64), dtype=torch.uint8)
    for v in (torch.full((4,), torch.nan, dtype=torch.float64), vector(4)):
        compressor.encode(v, payload, Round(0, 0), 0, memory)
    assert torch.equal(memory["error"] != 0, v.abs() <= v.abs().sort().values[1])


@pytest.mark.parametrize(
    "inner, complaint",
    [
        (
            {"name": "error_feedback", "compressor": "natural"},
            "compressor: 'error_feedback' remembers something itself",
        ),
        ("top_k", "compression.compressor.ratio"),
        ("top_q", "unknown compressor 'top_q'"),
    ],
)
def test_error_feedback_refuses_what_it_cannot_wrap(inner, complaint):
    spec = COMPRESSORS.check({"name": "error_feedback", "compressor": inner}, "compression")
    with pytest.raises(ConfigError, match=complaint):
        COMPRESSORS.check_run(spec, RunFacts(3, 1, 1, {}, {}), "compression")


def test_compressors_state_their_constants():
    assert (QSGD(levels=2).omega(16), QSGD(levels=2).norm_bound(16)) == (2.0, 3.0)
    assert (QSGD().omega(16), QSGD().norm_bound(16), QSGD().nonzeros(16)) == (4.0, 4.0, 5.0)
    assert (Natural().omega(9), Natural().norm_bound(9)) == (1 / 8, 2.0)
    assert (TopK(ratio=0.5).omega(8), TopK(ratio=0.5).norm_bound(8)) == (None, 1.0)
    assert (RandK(ratio=0.25).omega(8), RandK(ratio=0.25).norm_bound(8)) == (3.0, 4.0)
    feedback = ALL["error feedback"]
    assert feedback.unbiased and feedback.remembers and feedback.omega(8) is None and feedback.norm_bound(8) is None
