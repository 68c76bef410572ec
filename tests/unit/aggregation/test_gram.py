"""Distances are right where rows nearly agree, differ in size by forty powers of ten, or come in close groups."""

import numpy as np
import pytest
import torch

from byzdist.aggregation import Aggregator, aggregate
from byzdist.aggregation import gram as gram_module
from byzdist.aggregation import vectors as vectors_module
from byzdist.aggregation.geometry import Geometry
from byzdist.aggregation.kernels import native
from byzdist.aggregation.kernels.compiled import Loops
from byzdist.aggregation.kernels.native_products import make_loop
from byzdist.aggregation.kernels.native_sums import make_sums
from byzdist.aggregation.points import Points
from byzdist.aggregation.rules import uniform
from byzdist.aggregation.vectors import Vectors, Workspace
from tests.support.standins import watched


def true_squares(V):
    X = V.double().numpy()
    X = np.vstack([X, np.zeros(X.shape[1])])
    return np.array([((X - x) ** 2).sum(1) for x in X])


loops = {}


@pytest.fixture(scope="module", autouse=True, params=["eager", "in C"])
def path(request):
    if request.param == "in C":
        if not native.is_possible():
            pytest.skip("needs a C compiler")
        loops.update({dtype: Loops(make_loop(dtype), make_sums(dtype)) for dtype in native.REALS})
    yield
    loops.clear()


def seen(V):
    return Geometry(Vectors(V, Workspace(), loops=loops.get(V.dtype, Loops())))


def squares(V):
    return seen(V).squared_distances


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (5, 123), (20, 9000), (9, 40_001)])
def test_distances_of_unrelated_rows(dtype, n, d):
    V = rows(n, d).to(dtype)
    np.testing.assert_allclose(squares(V), true_squares(V), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_of_rows_that_agree_to_one_part_in_a_million(dtype):
    n, d = 12, 20_000
    V = (rows(1, d, 1) + 1e-6 * rows(n, d)).to(dtype)
    np.testing.assert_allclose(np.sqrt(squares(V)), np.sqrt(true_squares(V)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_distances_within_several_close_groups(dtype, offset):
    d = 16_000
    centres = rows(3, d, 1) * 10 + offset
    V = torch.cat([c + 1e-5 * rows(5, d, i) for i, c in enumerate(centres)]).to(dtype)
    V[7] = V[6]
    np.testing.assert_allclose(np.sqrt(squares(V)), np.sqrt(true_squares(V)), rtol=1e-5)
    assert squares(V)[6, 7] == 0.0


def test_distances_within_nested_groups():
    d = 5000
    base, V = rows(1, d, 1)[0], rows(8, d)
    for i, scale in enumerate([1.0, 1e-4, 1e-4, 1e-8, 1e-8, 1e-11, 1e-11]):
        V[i + 1] = base + scale * V[i + 1]
    np.testing.assert_allclose(np.sqrt(squares(V)), np.sqrt(true_squares(V)), rtol=1e-4)


def test_rows_of_mean_1000_and_spread_a_hundredth():
    V = (1000 + 0.01 * rows(30, 8000)).float()
    V[3] += 0.02
    expected = true_squares(V)[:-1, :-1]
    np.testing.assert_allclose(squares(V)[:-1, :-1], expected, rtol=1e-5)
    best = np.sort(expected, axis=1)[:, 1:23].sum(1).argmin()
    assert torch.equal(aggregate(V, "krum", f=6), V[best])


def on_sampled_rows():
    V = rows(100, 2000).float()
    bad = np.unique(np.linspace(0, 99, gram_module.SAMPLE).astype(int))[:40]
    V[bad] = 1e11
    return V, bad


def on_sampled_columns(dtype, elsewhere):
    V = (rows(11, 20_000) + 5).to(dtype)
    numbers = Vectors(torch.arange(20_000, dtype=torch.float64)[None], Workspace())
    known = numbers.sample(np.array([0]), gram_module.PIECES, 16)[0].long()
    V[0] = elsewhere
    V[0, known] = V[1:, known].mean(0)
    return V, [0]


def near(d, *bad):
    V = rows(1, d, 1) + 1e-8 * rows(11, d)
    V[list(bad)] = 1e6
    return V, list(bad)


FRAMES = {
    "rows": on_sampled_rows,
    "columns": lambda: on_sampled_columns(torch.float32, 1e11),
    "columns, float64": lambda: on_sampled_columns(torch.float64, 1e11),
    "columns, 1e200": lambda: on_sampled_columns(torch.float64, 1e200),
    "near": lambda: near(20_000),
    "near, few columns": lambda: near(50),
    "near, hostile": lambda: near(20_000, 0, 5),
}


@pytest.mark.parametrize("case", FRAMES)
def test_no_row_makes_itself_the_frame_in_which_the_others_are_seen(case):
    V, bad = FRAMES[case]()
    n, good = len(V), [i for i in range(len(V)) if i not in bad]
    honest = V[good].double()
    away = (honest - honest.mean(0)).norm(dim=1)
    got = Points(seen(V)).distances_to(uniform(n, good))[good]
    np.testing.assert_allclose(got, away, rtol=1e-3)
    for pre in ([], ["arc"], [{"name": "clip", "threshold": 2 * float(honest.norm(dim=1).max())}]):
        result = aggregate(V, "krum", pre=pre, f=len(bad)).double()
        assert (result - honest.mean(0)).norm() <= 3 * away.max()


def test_sampling_is_repaired_at_the_cost_of_one_pass_and_honest_rows_pay_none(monkeypatch):
    monkeypatch.setattr(gram_module, "CACHED", 0)
    for V, most in (
        (on_sampled_rows()[0], 2),
        (rows(20, 9000), 1),
        (rows(20, 9000).float() + 30, 1),
        (near(9000)[0], 1),
    ):
        with watched(gram_module, "_seen_from") as calls:
            squares(V)
        assert sum(len(points) == len(V) + 1 for _, points, *_ in calls) == most


def test_small_rows_beside_a_large_one():
    V = rows(9, 20_000).float() * 1e-24
    V[8] = 1e3
    V[7] = V[6]
    np.testing.assert_allclose(squares(V), true_squares(V), rtol=1e-5)


def test_copies_and_zeros_do_not_need_float64():
    V = rows(9, 20_000).float()
    V[3] = V[4] = 0.0
    V[5] = V[6]
    for offset in (0.0, 30.0):
        with watched(gram_module, "_inner_products") as calls:
            squares(V + offset)
        assert calls[0][-1] == torch.float32 and len(calls) <= 1 + 2


@pytest.mark.parametrize("size", [1e150, 1e200])
@pytest.mark.parametrize("d", [7, 20_000])
def test_equal_rows_that_are_far_away_are_not_forgotten(size, d):
    V = torch.full((5, d), size, dtype=torch.float64)
    for rule in ("mean", "krum", "geometric_median", "centered_clip", "caf", "mda", "smea"):
        torch.testing.assert_close(Aggregator(rule)(V, f=1).vector, V[0], msg=rule)


def test_a_gpu_multiplies_in_full_float32_and_gets_its_setting_back():
    settings = torch.backends.cuda.matmul
    before = settings.allow_tf32
    try:
        for allowed in (True, False):
            settings.allow_tf32 = allowed
            with vectors_module.full_precision(torch.device("cuda")):
                assert not settings.allow_tf32
            assert settings.allow_tf32 == allowed
    finally:
        settings.allow_tf32 = before


@pytest.mark.parametrize("size", [1e-30, 1e-18, 1e15, 1e30])
def test_sizes_whose_squares_float32_cannot_hold(size):
    V = (rows(6, 20_000) * size).float()
    np.testing.assert_allclose(squares(V), true_squares(V), rtol=1e-5)


def test_one_row_of_1e38_leaves_the_others_right():
    V = rows(9, 20_000).float()
    V[4] = 1e38
    np.testing.assert_allclose(squares(V), true_squares(V), rtol=1e-5)
    assert np.isfinite(seen(V).norms).all()


def test_lengths_beyond_the_range_of_float64_stay_finite():
    V = rows(5, 300)
    V[1], V[3] = 1e200, -1e300
    for rule in ("krum", "geometric_median", "centered_clip", "caf", "mda"):
        assert torch.isfinite(aggregate(V, rule, f=1)).all(), rule


@pytest.mark.parametrize("d", [77, 5000, 70_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lengths(d, dtype):
    V = rows(7, d).to(dtype) * torch.tensor([0, 1e-30, 1e-5, 1, 1e5, 1e18, 1e30], dtype=dtype)[:, None]
    np.testing.assert_allclose(seen(V).norms, V.double().norm(dim=1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "offset"), [(3, 0.0), (17, 3.0), (20, 0.0)])
def test_inner_products_do_not_depend_on_threads_tiles_or_alignment(n, offset, dtype, monkeypatch):
    d = 70_003
    source = rows(n, d, 2).to(dtype) + offset
    threads = torch.get_num_threads()
    results = []
    try:
        for count, width, shift, spare in (
            (1, 32768, 0, 5),
            (2, 32768, 1, 5),
            (2, 4096, 3, 5),
            (1, 8192, 0, 5),
            (1, 8192, 0, 13),  # rows on cache lines, which are not copied
        ):
            torch.set_num_threads(count)
            monkeypatch.setattr("byzdist.aggregation.gram.WIDTH", width)
            V = torch.empty(n, d + spare, dtype=dtype)[:, shift : shift + d].copy_(source)
            geometry = seen(V)
            results.append((geometry.gram, geometry.squared_distances, seen(V).norms))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shortened", [0.9, 0.0136, 1e-3, 1e-9])
@pytest.mark.parametrize("hostile", [-70.0, 0.0, -1e30, 1e-30])
@pytest.mark.parametrize(("d", "spread"), [(1, 1e-5), (17, 1e-5), (17, 1.0), (700, 1e-4)])
def test_rows_that_are_shortened_to_nearly_the_same_are_as_near_as_they_are(d, spread, hostile, shortened):
    """They lie on one line, so that all that is left between them is a rounding error, but for a few; one is elsewhere."""
    direction = rows(1, d, 1) / rows(1, d, 1).norm()
    V = 70.0 * direction * torch.exp(spread * rows(9, 1, 2))
    V[7:8] += 1e-3 * rows(1, d, 3)
    V[8] = hostile * direction
    clip = 70.0 * shortened
    geometry = seen(V)
    factors = np.minimum(1.0, clip / np.maximum(geometry.norms, 1e-99))
    points = Points(geometry).scaled(factors)
    X = factors.astype(np.longdouble)[:, None] * V.numpy()
    true = np.sqrt(((X[:, None] - X) ** 2).sum(-1)).astype(float)
    np.testing.assert_allclose(np.sqrt(points.squared_distances()), true, rtol=1e-5, atol=1e-7 * np.sqrt(spread) * clip)
    z = np.full(9, 1 / 9) @ X
    true = np.sqrt(((X - z) ** 2).sum(-1)).astype(float)
    np.testing.assert_allclose(points.distances_to(np.full(9, 1 / 9)), true, rtol=1e-5, atol=1e-7 * clip)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_far_from_others_that_agree_keeps_its_length_when_it_is_shortened(dtype):
    V = torch.full((8, 3), 2000.0, dtype=dtype)
    V[:3] = -13.0  # with two of the others, their mean is on the side of those
    V[:5, 0] += torch.linspace(0, 1e-3, 5, dtype=dtype)
    result = Aggregator("mean", ["nnm", {"name": "clip", "threshold": 1.0}])(V, f=3, clip=40.0).vector
    np.testing.assert_allclose(result, 3**-0.5, rtol=1e-3)
