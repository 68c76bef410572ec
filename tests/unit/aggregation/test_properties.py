"""What holds for every rule on every input: equivariances, the stated norm bound, robustness, hostile numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from byzdist.aggregation import RULES, Aggregator, aggregate
from byzdist.aggregation import gram as gram_module

NAMED = [{"name": "ctma", "rule": "coordinate_median"} if r == "ctma" else {"name": r} for r in RULES]
TRANSLATES = [r for r in NAMED if r["name"] != "cge"]  # measures lengths from the origin
ROBUST = [r for r in NAMED if r["name"] not in ("mean", "cge")]  # cge: see its facts

every_rule = pytest.mark.parametrize("rule", NAMED, ids=lambda r: r["name"])
few = settings(max_examples=10, deadline=None, derandomize=True)


@pytest.fixture(scope="module", autouse=True, params=[gram_module.SMALL, 0], ids=["small", "large"])
def path(request):
    """Run everything as it is, in float64 at this size, and as it would be for many more numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gram_module, "SMALL", request.param)
        yield


def largest_f(rule, n):
    return min(RULES.get(rule["name"]).facts.max_f(n), RULES.get(rule.get("rule", rule["name"])).facts.max_f(n), 3)


def well_spread(n, d, seed):
    """Rows without ties, so that a rule's choice does not depend on rounding."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def pivots_tie(V):
    """Whether two rows may be MoNNA's pivot: each is as far from the other as the median of its distances, the smallest median."""
    medians = np.sort(np.median(torch.cdist(V, V).numpy() ** 2, axis=1))
    return len(V) > 1 and bool(np.isclose(medians[0], medians[1]))


sizes = dict(n=st.integers(1, 16), d=st.integers(1, 40), seed=st.integers(0, 10**6))


@every_rule
@few
@given(**sizes)
def test_the_order_of_rows_does_not_matter(rule, n, d, seed):
    if "krum" in rule["name"]:
        n += 3  # of fewer rows, two are nearest to each other: a tie
    V, f = well_spread(n, d, seed), largest_f(rule, n)
    order = np.random.default_rng(seed).permutation(n)
    if n - f - 2 <= 1 and "krum" in rule["name"] or rule["name"] == "bulyan" and f < 3 or rule["name"] == "mda":
        f = 0  # else ties: two rows nearest to each other, several subsets of one diameter
    if rule["name"] == "monna" and pivots_tie(V):
        f = 0
    torch.testing.assert_close(aggregate(V[list(order)], rule, f=f), aggregate(V, rule, f=f), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", TRANSLATES, ids=lambda r: r["name"])
@few
@given(**sizes, shift=st.floats(-1e3, 1e3))
def test_translating_the_rows_translates_the_result(rule, n, d, seed, shift):
    V, f = well_spread(n, d, seed), largest_f(rule, n)
    torch.testing.assert_close(
        aggregate(V + shift, rule, f=f), aggregate(V, rule, f=f) + shift, rtol=1e-5, atol=1e-5 * (1 + abs(shift) * 1e-3)
    )


@every_rule
@few
@given(**sizes, exponent=st.integers(-80, 80))
def test_scaling_the_rows_scales_the_result(rule, n, d, seed, exponent):
    V, f = well_spread(n, d, seed), largest_f(rule, n)
    scaled = aggregate(V * 2.0**exponent, rule, f=f) * 2.0**-exponent
    torch.testing.assert_close(scaled, aggregate(V, rule, f=f), rtol=1e-6, atol=1e-6)


hostile = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e38, -1e38, 3e-39, 1e-20, 7.0]) | st.floats(-1e3, 1e3, width=32)


@every_rule
@few
@given(V=arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 6)), elements=hostile))
def test_hostile_numbers_stay_within_the_stated_bound(rule, V):
    n, f = len(V), largest_f(rule, len(V))
    before = V.copy()
    got = aggregate(torch.from_numpy(V), rule, f=f).double().numpy()
    bound = RULES.get(rule["name"]).facts.norm_bound(n, f)
    assert np.isfinite(got).all()
    assert np.linalg.norm(got) <= bound * np.linalg.norm(V.astype(float), axis=1).max() * (1 + 1e-6)
    assert V.tobytes() == before.tobytes()


@every_rule
@pytest.mark.parametrize("step", [{"name": "clip", "threshold": 2.0}, "arc", "nnm", "bucketing"], ids=str)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(**sizes)
def test_the_bound_of_a_chain_is_that_of_the_rows_its_steps_leave(rule, step, n, d, seed):
    aggregator, V = Aggregator(rule, [step]), well_spread(n, d, seed)
    f = min(aggregator.max_f(n), 3)
    assert aggregator.norm_bound(n, f) == Aggregator(rule).norm_bound(-(-n // 2) if step == "bucketing" else n, f)
    result = aggregator(V, f=f, generator=np.random.default_rng(seed)).vector
    assert result.norm() <= aggregator.norm_bound(n, f) * V.norm(dim=1).max() * (1 + 1e-9)


@pytest.mark.parametrize("rule", ["coordinate_median", "trimmed_mean", "meamed"])
@pytest.mark.parametrize(("n", "f"), [(4, 1), (5, 2), (12, 3), (15, 7), (20, 5)])
def test_the_bound_is_attained(rule, n, f):
    zeros = (n - 1) // 2 if rule == "coordinate_median" else f
    V = torch.ones(n, n, dtype=torch.float64)
    for column in range(n):
        V[[(column + i) % n for i in range(zeros)], column] = 0.0
    ratio = float(aggregate(V, rule, f=f).norm() / V.norm(dim=1).max())
    assert ratio == pytest.approx(Aggregator(rule).norm_bound(n, f), rel=1e-12)


@few
@given(
    values=arrays(np.float64, st.integers(3, 15), elements=st.floats(-1e3, 1e3)),
    share=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_the_kappa_of_the_trimmed_mean(values, share, seed):
    n = len(values)
    f = max(1, round(share * ((n - 1) // 2)))
    honest = np.random.default_rng(seed).permutation(values)[f:]
    got = float(aggregate(torch.from_numpy(values)[:, None], "trimmed_mean", f=f))
    assert (got - honest.mean()) ** 2 <= f / (n - 2 * f) * honest.var() * (1 + 1e-9) + 1e-12


def test_the_kappa_of_the_trimmed_mean_is_attained():
    n, f = 11, 3
    V = torch.zeros(n, 1, dtype=torch.float64)
    V[:f], V[f : 2 * f] = -1e9, 1.0
    honest = V[f:]
    error = (aggregate(V, "trimmed_mean", f=f) - honest.mean(0)) ** 2
    torch.testing.assert_close(error, f / (n - 2 * f) * honest.var(0, correction=0))


@pytest.mark.parametrize(
    "name", [name for name in RULES if RULES.get(name).facts.kappa and name not in ("mean", "ctma")]
)
@pytest.mark.parametrize("pre", [[], ["nnm"]], ids=["alone", "nnm"])
@pytest.mark.parametrize("wrap", [False, True], ids=["plain", "ctma"])
def test_no_attack_that_was_tried_exceeds_kappa(name, pre, wrap):
    n, f, generator = 11, 3, np.random.default_rng(4)
    aggregator = Aggregator({"name": "ctma", "rule": name} if wrap else name, pre)
    kappa = aggregator.kappa(n, f)
    for distance in (0.5, 1.0, 2.0, 4.0, 1e6):
        honest = generator.standard_normal((n - f, 4))
        hostile = (
            honest.mean(0) + distance * np.sign(generator.standard_normal(4)) + 0.1 * generator.standard_normal((f, 4))
        )
        result = aggregator(torch.from_numpy(np.concatenate([hostile, honest])), f=f).vector.numpy()
        error, spread = np.sum((result - honest.mean(0)) ** 2), honest.var(0).sum()
        assert error <= kappa * spread * (1 + 1e-9)


def test_kappa_of_a_chain_is_known_only_if_each_part_has_one():
    assert Aggregator("mean").kappa(9, 0) == 0.0 and Aggregator("mean").kappa(9, 1) == np.inf
    assert Aggregator("coordinate_median", ["bucketing"]).kappa(9, 2) is None
    assert Aggregator("mda").kappa(9, 2) is None and Aggregator({"name": "ctma", "rule": "mda"}).kappa(9, 2) is None
    assert Aggregator("trimmed_mean", ["nnm"]).kappa(9, 2) == pytest.approx(8 * 2 / 7 * (1 + 2 / 5))


@every_rule
@few
@given(
    n=st.integers(1, 12),
    row=arrays(np.float32, st.integers(1, 6), elements=hostile),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_equal_rows_give_that_row(rule, n, row, dtype):
    V = torch.from_numpy(row).to(dtype).repeat(n, 1)
    got = aggregate(V, rule, f=largest_f(rule, n))
    torch.testing.assert_close(got, V[0], rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-38)


@pytest.mark.parametrize("rule", ROBUST, ids=lambda r: r["name"])
@pytest.mark.parametrize("size", [1e2, 1e10, 1e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_f_rows_moved_to_infinity_move_the_result_by_a_bounded_amount(rule, size, dtype):
    n, d = 15, 60
    f = largest_f(rule, n)
    assert f > 0
    V = well_spread(n, d, 0).to(dtype) + 1
    honest = V[f:]
    spread = (honest - honest.mean(0)).norm(dim=1).max()
    for hostile_rows in (
        torch.full((f, d), size),
        torch.randn(f, d, generator=torch.Generator().manual_seed(1)) * size,
    ):
        W = V.clone()
        W[:f] = hostile_rows.clamp(-3e38, 3e38)
        assert (aggregate(W, rule, f=f) - honest.mean(0)).norm() <= 2 * spread


@pytest.mark.parametrize("rule", [r["name"] for r in ROBUST if r["name"] != "ctma"])
def test_one_row_of_1e20_counts_for_nothing_or_as_any_other_far_row(rule):
    V = well_spread(11, 50, 4).float()
    far, farther = V.clone(), V.clone()
    far[2], farther[2] = 1e6, 1e20
    torch.testing.assert_close(aggregate(farther, rule, f=2), aggregate(far, rule, f=2), rtol=1e-3, atol=1e-3)


@every_rule
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows(rule, n):
    V = well_spread(n, 7, 1)
    got = aggregate(V, rule)
    assert torch.isfinite(got).all()
    assert n > 1 or torch.equal(got, V[0])
