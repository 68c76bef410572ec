"""The aggregator's contract: inputs of every kind, workspaces, bits, clipping, limits of f, errors."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from byzdist.aggregation import PRE, RULES, Aggregator, aggregate, gram, max_byzantine
from byzdist.aggregation import engine as engine_module
from byzdist.aggregation import vectors as vectors_module
from byzdist.aggregation.coordinate import coordinate_median, meamed, trimmed_mean
from byzdist.aggregation.kernels import native, native_columns, native_products, traced
from byzdist.aggregation.rules import minority
from byzdist.errors import ConfigError
from byzdist.registry import Named
from tests.support.standins import failing, watched

NAMED = [{"name": "ctma", "rule": "trimmed_mean"} if r == "ctma" else {"name": r} for r in RULES]
CHAIN: list[Named] = [{"name": "clip", "threshold": 30.0}, "arc", "nnm", {"name": "bucketing", "size": 2}]
every_rule = pytest.mark.parametrize("rule", NAMED, ids=lambda r: r["name"])


def rows(n, d, dtype=torch.float64, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def seeded():
    return np.random.default_rng(7)


@every_rule
@pytest.mark.parametrize("pre", [[], CHAIN], ids=["alone", "chain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_strides_do_not_change_the_result_and_inputs_are_not_written(rule, pre, dtype):
    V = rows(13, 5000, dtype)
    expected = aggregate(V, rule, pre=pre, f=1, generator=seeded())
    wide = torch.full((13, 5100), 9.0, dtype=dtype)
    wide[:, 50:5050] = V
    for other in (wide[:, 50:5050], V.T.contiguous().T, torch.stack([V, V + 1], 2)[:, :, 0]):
        before = other.clone()
        assert torch.equal(aggregate(other, rule, pre=pre, f=1, generator=seeded()), expected)
        assert torch.equal(other, before)
    assert expected.dtype == dtype


@every_rule
@pytest.mark.parametrize("pre", [[], CHAIN], ids=["alone", "chain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_do_not_depend_on_threads_or_tiles(rule, pre, dtype, monkeypatch):
    V, threads, results = rows(13, 17_001, dtype), torch.get_num_threads(), []
    try:
        for count, narrowest, share in ((1, 4096, 12), (2, 4096, 12), (2, 16384, 12), (1, 2048, 50)):
            torch.set_num_threads(count)
            monkeypatch.setattr("byzdist.aggregation.vectors.NARROWEST", narrowest)
            monkeypatch.setattr("byzdist.aggregation.vectors.SHARE", share)
            results.append(aggregate(V, rule, pre=pre, f=1, generator=seeded()))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(results[0], other)


def test_an_aggregator_used_again_and_again_gives_what_a_new_one_gives():
    aggregator = Aggregator("trimmed_mean", CHAIN)
    for n, d in ((9, 700), (20, 100), (4, 3000), (9, 700)):
        V = rows(n, d, seed=n)
        kept = aggregator(V, f=1, clip=5.0, generator=seeded()).vector
        torch.testing.assert_close(kept, Aggregator("trimmed_mean", CHAIN)(V, f=1, clip=5.0, generator=seeded()).vector)


@every_rule
def test_out_takes_the_result_whatever_its_strides(rule):
    V = rows(9, 600)
    expected = aggregate(V, rule, f=1)
    for out in (torch.empty(600, dtype=torch.float64), torch.empty(1200, dtype=torch.float64)[::2]):
        result = Aggregator(rule)(V, f=1, out=out)
        assert result.vector is out
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ["mean", "coordinate_median", "krum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [123, 30_000])
def test_the_server_clips_rows_before_anything_else(rule, dtype, d):
    V = rows(6, d, dtype) * torch.linspace(0.1, 3, 6, dtype=dtype)[:, None]
    threshold = float(V[2].norm()) * 1.01
    by_hand = V * torch.clamp(threshold / V.norm(dim=1), max=1.0)[:, None]
    result = Aggregator(rule, ["nnm"])(V, f=1, clip=threshold)
    assert result.clipped == 3
    torch.testing.assert_close(result.vector, aggregate(by_hand, rule, pre=["nnm"], f=1), rtol=1e-4, atol=1e-5)
    V[5] = 0.0
    assert Aggregator(rule)(V, clip=0.0).vector.count_nonzero() == 0


@pytest.mark.parametrize("rule", ["mean", "krum", "geometric_median", "coordinate_median"])
def test_the_weights_make_the_result_from_the_clipped_rows(rule):
    V = rows(7, 40) * torch.linspace(0.1, 3, 7, dtype=torch.float64)[:, None]
    threshold = float(V[3].norm())
    result = Aggregator(rule, [{"name": "bucketing", "size": 2}])(V, f=1, clip=threshold, generator=seeded())
    if rule == "coordinate_median":
        assert result.weights is None
    else:
        clipped = V * torch.clamp(threshold / V.norm(dim=1), max=1.0)[:, None]
        torch.testing.assert_close(result.vector, torch.from_numpy(result.weights) @ clipped)


def test_f_is_an_error_alone_and_clamped_with_a_record_in_the_aggregator():
    V = rows(4, 9)
    with pytest.raises(ConfigError, match="f: 2 of 4 rows; 0 to 1"):
        aggregate(V, "coordinate_median", f=2)
    with pytest.raises(ConfigError, match="f: 1 of 4 rows; 0 to 0"):
        aggregate(V, "coordinate_median", pre=["bucketing"], f=1, generator=seeded())
    bucketed = Aggregator("coordinate_median", ["bucketing"])
    assert bucketed(V, f=1, generator=seeded()).f == 0
    assert bucketed(rows(10, 9), f=4, generator=seeded()).f == 2
    assert Aggregator("coordinate_median")(V, f=3).f == 1
    assert Aggregator({"name": "ctma", "rule": "krum"}).max_f(9) == Aggregator("krum").max_f(9) == 3


@every_rule
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_an_error_or_dropped_and_counted(rule, bad):
    V = rows(12, 40, torch.float32)
    V[3, 7] = bad
    with pytest.raises(ConfigError, match=r"rows \[3\] hold NaN or infinity"):
        aggregate(V, rule, f=2)
    rest = V[[i for i in range(12) if i != 3]]
    assert torch.equal(aggregate(V, rule, f=2, nonfinite="drop"), aggregate(rest, rule, f=1))
    assert Aggregator(rule)(V, f=2, nonfinite="drop").dropped == (3,)


def test_rows_none_of_which_is_finite_are_not_advised_to_be_dropped():
    V = torch.full((3, 4), float("nan"))
    for nonfinite in ("error", "drop"):
        with pytest.raises(ConfigError, match="V: all 3 rows hold NaN or infinity; none is left to aggregate"):
            aggregate(V, "mean", nonfinite=nonfinite)


@every_rule
@pytest.mark.parametrize("pre", [[], CHAIN], ids=["alone", "chain"])
def test_rows_that_require_a_gradient_are_aggregated_without_one(rule, pre):
    V = rows(13, 5000, torch.float32)
    result = aggregate(V.clone().requires_grad_(), rule, pre=pre, f=1, generator=seeded())
    assert not result.requires_grad and torch.equal(result, aggregate(V, rule, pre=pre, f=1, generator=seeded()))
    assert not Aggregator(rule)(V.clone().requires_grad_()[:1], out=torch.empty(5000)).vector.requires_grad


@every_rule
@pytest.mark.parametrize("pre", [[], CHAIN, CHAIN[:2], ["bucketing", "arc"]], ids=["alone", "chain", "clip", "mean"])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_every_rule_with_any_chain_passes_over_the_data_at_most_twice(rule, pre, offset, monkeypatch):
    monkeypatch.setattr(gram, "CACHED", 0)  # of so few numbers, a third look would be none at the memory
    d = 20_000
    V = rows(13, d, torch.float32) + offset
    with watched(vectors_module.Vectors, "tile") as tiles:
        Aggregator(rule, pre)(V, f=1, clip=1e3, generator=seeded())
    # around a column rule, ctma has to write that rule's result, to measure distances to it, and to average
    most = 4 if rule["name"] == "ctma" else 2
    assert 0 < sum(stop - start for _, start, stop in tiles) <= most * d


@pytest.mark.parametrize("n", [5, 300])
@pytest.mark.parametrize("rule", ["mean", "coordinate_median", "geometric_median"])
def test_clipping_to_zero_leaves_zero_of_few_rows_and_of_many(n, rule):
    assert Aggregator(rule)(rows(n, 30, torch.float32), clip=0.0).vector.count_nonzero() == 0


def test_finite_rows_whose_sum_is_not_are_kept():
    V = torch.full((5, 40), 3e38)
    assert torch.equal(aggregate(V, "coordinate_median", nonfinite="drop"), V[0])
    torch.testing.assert_close(aggregate(V, "trimmed_mean", f=1), V[0])


def test_zeros_have_one_sign():
    V = torch.tensor([[0.0, -0.0], [-0.0, -0.0], [-0.0, 0.0]])
    assert not torch.signbit(aggregate(V, "coordinate_median")).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda V: aggregate(V, "krumm"), "unknown rule 'krumm'. Did you mean 'krum'"),
        (lambda V: aggregate(V, {"name": "krum", "margin": 0}), "margin"),
        (lambda V: aggregate(V, {"name": "krum", "margn": 1}), "margn"),
        (lambda V: aggregate(V, {"margin": 1}), r"aggregate.rule.name: this key is required\. Known: "),
        (lambda V: aggregate(V, "ctma"), "rule"),
        (lambda V: aggregate(V, {"name": "ctma", "rule": "nope"}), "unknown rule 'nope'"),
        (lambda V: aggregate(V, "mean", pre=["bucketting"]), r"pre\[0\].*Did you mean 'bucketing'"),
        (lambda V: aggregate(V, "mean", pre=[{"name": "clip"}]), "threshold"),
        (lambda V: aggregate(V[0], "mean"), "V: n x d"),
        (lambda V: aggregate(V[:0], "mean"), "V: n x d"),
        (lambda V: aggregate(V.int(), "mean"), "V: n x d"),
        (lambda V: aggregate(V, "mean", f=-1), "f: -1"),
        (lambda V: aggregate(V, "mean", f=1.5), "f: 1.5 of 5 rows"),
        (lambda V: aggregate(V, "mean", f="1"), "f: '1' of 5 rows"),  # type: ignore[arg-type]
        (lambda V: aggregate(V, "mean", f=float("nan")), "f: nan of 5 rows"),
        (lambda V: aggregate(V, "mean", f=True), "f: True of 5 rows"),
        (lambda V: aggregate(V, "mean", nonfinite="trust"), "nonfinite: error or drop"),  # type: ignore[arg-type]
        (lambda V: aggregate([], "mean"), "V: n x d"),
        (lambda V: aggregate([[1.0, 2.0], [3.0]], "mean"), "V: n x d numbers are needed"),
        (lambda V: aggregate("rows", "mean"), "V: n x d numbers are needed"),
        (lambda V: aggregate(None, "mean"), "V: n x d numbers are needed"),
        (lambda V: aggregate(V.int().numpy(), "mean"), "V: n x d of a floating type"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call(rows(5, 4))


def test_rows_may_be_a_tensor_an_array_or_a_list():
    V = rows(5, 4)
    expected = aggregate(V, "trimmed_mean", f=1)
    for given in (V.numpy(), V.numpy()[::-1], V.tolist(), list(V), list(V.numpy()), tuple(V)):
        assert torch.equal(torch.as_tensor(aggregate(given, "trimmed_mean", f=1.0)), expected)
    two: Any = np.int64(2)
    assert aggregate(V.float().numpy(), "mean", f=two).dtype == np.float32
    assert aggregate([[1, 2], [3, 4]], "mean").tolist() == [2.0, 3.0]


def test_every_rule_and_step_says_what_it_is():
    for name in RULES:
        rule = RULES.get(name)
        assert RULES.describe(name).endswith(".") and rule.facts.breakdown and rule.facts.cost
        for n in range(1, 40):
            assert 0 <= rule.facts.max_f(n) < max(n, 2)
            assert all(rule.facts.norm_bound(n, f) >= 1.0 for f in range(minority(n) + 1))
    assert all(PRE.describe(name).endswith(".") for name in PRE)


def test_many_rows_of_a_rule_without_inner_products_build_no_square_matrix():
    V = rows(3000, 6)
    pre = [{"name": "bucketing", "size": 10}]
    order = seeded().permutation(3000)
    for rule, expected in (
        ("mean", V.mean(0)),
        ("coordinate_median", V[order].view(300, 10, 6).mean(1).quantile(0.5, dim=0)),
    ):
        with failing(gram, "geometry", AssertionError("inner products of 3000 rows")):
            torch.testing.assert_close(aggregate(V, rule, pre=pre, f=3, generator=seeded()), expected)


compiled = pytest.mark.skipif(not native.is_possible(), reason="needs a C compiler")


def test_without_a_compiler_the_eager_path_does_the_work_and_that_is_said_once(monkeypatch, caplog):
    monkeypatch.setenv("CC", "/nowhere/cc")
    aggregator, V = Aggregator("coordinate_median", compile=True), rows(6, 30)
    for _ in range(2):
        assert torch.equal(aggregator(V).vector, aggregate(V, "coordinate_median"))
    assert len(caplog.messages) == 1 and "/nowhere/cc" in caplog.messages[0]


@compiled
def test_what_the_compiler_complains_of_is_passed_on(monkeypatch, caplog):
    monkeypatch.setenv("CC", "cc -include /nowhere/header.h")
    aggregator, V = Aggregator("coordinate_median", compile=True), rows(6, 30)
    assert torch.equal(aggregator(V).vector, aggregate(V, "coordinate_median"))
    assert "/nowhere/header.h: No such file" in caplog.text and "void" not in caplog.text, "its words, not the program"


@compiled
@pytest.mark.parametrize(
    "rule, pre",
    [
        ("coordinate_median", []),
        ("trimmed_mean", []),
        ("meamed", []),
        ("bulyan", []),
        ("meamed", ["nnm"]),
    ],
)
@pytest.mark.parametrize("dtypes", [[torch.float32, torch.bfloat16], [torch.float64]], ids=["float", "double"])
def test_the_loop_in_c_has_the_bits_of_the_eager_path(rule, pre, dtypes):
    d = 2 * native_columns._NARROWEST + 1  # wide enough for two threads
    compiling, was = Aggregator(rule, pre, compile=True), torch.get_num_threads()
    for dtype in dtypes:  # those of one compiled loop
        wide = rows(13, d, dtype)
        wide[:, :9000] = torch.randint(-2, 3, (13, 9000), generator=torch.Generator().manual_seed(1))  # ties
        wide[:, 9000:9100] *= 1e-42  # too small for full precision
        wide[:5, 9100:9200], wide[5:, 9100:9200] = 0.0, -0.0
        strided, turned = torch.empty(2, 13, d, dtype=dtype)[1].copy_(wide), wide.T.contiguous().T
        blank, expected = torch.empty(d, 2, dtype=dtype), Aggregator(rule, pre)(wide, f=2).vector
        plain = blank.flatten()[:d]
        for threads, V, out in ((1, wide, plain), (2, wide, plain), (1, strided, blank[:, 0]), (1, turned, plain)):
            blank.fill_(9.0)  # what is not written must not pass, nor make the eager path step in
            torch.set_num_threads(threads)
            try:
                result = compiling(V, f=2, out=out).vector
            finally:
                torch.set_num_threads(was)
            assert torch.equal(result.contiguous().view(torch.uint8), expected.view(torch.uint8))
    assert compiling._compiler.works and len(compiling._compiler._loops) == 1


@compiled
@pytest.mark.parametrize("rule", ["krum", "geometric_median", "centered_clip", "caf", "smea"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("common", [0.0, 30.0])
def test_inner_products_in_c_give_the_same_vector_to_rounding(rule, dtype, common, monkeypatch):
    loop, used = native_products.make_loop(dtype), []
    monkeypatch.setattr(native_products, "make_loop", lambda dtype: lambda *given: used.append(given) or loop(*given))
    wide = rows(13, 40_001, dtype) + common
    compiling, expected = Aggregator(rule, compile=True), Aggregator(rule)(wide, f=2).vector
    was, results = torch.get_num_threads(), []
    for threads, V in ((1, wide), (2, wide), (2, torch.empty(13, 40_010, dtype=dtype)[:, 3:-6].copy_(wide))):
        torch.set_num_threads(threads)
        try:
            results.append(compiling(V, f=2).vector)
        finally:
            torch.set_num_threads(was)
    assert compiling._compiler.works and len(used) >= 3
    assert all(torch.equal(result, results[0]) for result in results)
    torch.testing.assert_close(results[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", [coordinate_median, trimmed_mean, meamed])
def test_the_traced_expression_has_the_bits_of_the_eager_path(rule, monkeypatch):
    """What a GPU's compiler is given to fuse, run as it is."""
    monkeypatch.setattr(torch, "compile", lambda graph, **kwargs: graph)
    for dtype in (torch.float32, torch.float64):
        V, out = rows(13, 9000, dtype), torch.empty(9000, dtype=dtype)
        traced.make_loop(rule, 13, 2, {})(V, out)
        assert torch.equal(out, aggregate(V, rule.__name__, f=2))


@compiled
@pytest.mark.parametrize("rule", ["coordinate_median", "trimmed_mean", "meamed"])
def test_sums_beyond_the_range_of_the_numbers_go_the_eager_path(rule):
    V = rows(13, 9000, torch.float32)
    V[:, 0] = 3e38
    aggregator = Aggregator(rule, compile=True)
    for _ in range(2):
        result = aggregator(V, f=2).vector
        assert result.isfinite().all() and torch.equal(result, aggregate(V, rule, f=2))


@compiled
@pytest.mark.parametrize("columns, compiles", [(1000, False), (100_000, True)])
def test_by_itself_only_what_is_large_is_compiled(columns, compiles):
    aggregator = Aggregator("trimmed_mean", compile="auto")
    aggregator(rows(6, columns), f=1)
    assert bool(aggregator._compiler._loops) == compiles
    with watched(native_products, "make_loop") as made:
        Aggregator("krum", compile="auto")(rows(6, columns), f=1)
    assert bool(made) == compiles


def test_the_engine_exports_what_the_trainer_calls():
    result = engine_module.Aggregator("coordinate_median", [{"name": "bucketing", "size": 2}])(
        rows(4, 123), f=1, clip=1.0, generator=seeded()
    )
    assert result.vector.shape == (123,) and result.clipped == 4 and result.f == 0


def wrong(value: object) -> Any:
    return value


def test_a_rule_and_a_step_may_be_functions_and_a_single_step_needs_no_list():
    V = rows(5, 7)
    assert torch.equal(aggregate(V, lambda matrix, f: matrix[f], f=1), V[1])
    doubled = aggregate(V, "mean", pre=lambda points, f, generator: points.scaled(np.full(points.size, 2.0)))
    torch.testing.assert_close(doubled, 2 * V.mean(0))
    assert torch.equal(aggregate(V, "mean", pre="nnm", f=1), aggregate(V, "mean", pre=["nnm"], f=1))
    assert (
        max_byzantine("coordinate_median", "bucketing", 20) == 4 and max_byzantine("coordinate_median", None, 20) == 9
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda V: aggregate(V, wrong(None)), r"aggregate.rule: must be a name or a mapping .* \(it is empty\)"),
        (lambda V: aggregate(V, "mean", pre=["nnm", wrong(3)]), r"aggregate.pre\[1\]: must be a name .* \(it is 3\)"),
        (
            lambda V: aggregate(V, lambda matrix, f: None),
            r"'<lambda>' must return .* d = 7 real .* \(it returned a NoneType\)",
        ),
        (lambda V: aggregate(V, lambda matrix, f: matrix), r"must return .* \(it returned \(5, 7\), torch.float64\)"),
        (lambda V: aggregate(V, lambda matrix, f: matrix[0] * 1j), r"must return .* real .*torch.complex128"),
        (
            lambda V: aggregate(V, "mean", pre="bucketing", generator=wrong(3)),
            r"generator: .*numpy.random.default_rng.*\(it is 3\)",
        ),
        (lambda V: aggregate(V.to_sparse(), "mean"), r"V: .*sparse .*to_dense"),
        (lambda V: aggregate(V.to("meta"), "mean"), r"V: a dense tensor with values .* meta"),
        (lambda V: aggregate([{"a": V.to_sparse()}], "mean"), r"V: .*sparse"),
        (lambda V: aggregate(np.ma.masked_array(V, mask=V > 0), "mean"), r"V: a masked array .*filled"),
        (lambda V: Aggregator("mean")(V.numpy()), r"V: a tensor n x d .*\(it is a ndarray\)"),
        (lambda V: Aggregator("mean")(V[0]), r"V: a tensor n x d .*\(it is \(7,\), torch.float64\)"),
        (lambda V: Aggregator("mean")(V.to("meta")), r"V: a dense tensor with values .* meta"),
        (lambda V: Aggregator("mean")(V, clip=-1.0), r"clip: a number of at least 0 .*\(it is -1.0\)"),
        (lambda V: Aggregator("mean")(V, clip=float("nan")), r"clip: .*\(it is nan\)"),
        (lambda V: Aggregator("mean")(V, out=torch.zeros(3)), r"out: a tensor of 7 floating numbers .*\(3,\)"),
        (lambda V: Aggregator("mean")(V, out=torch.zeros(7).long()), r"out: .*torch.int64"),
        (lambda V: Aggregator("mean", compile=wrong("yes")), r"compile: .*\(it is 'yes'\)"),
        (lambda V: max_byzantine("mean", (), -1), r"n: a whole number .*\(it is -1\)"),
    ],
)
def test_what_a_caller_gives_is_checked(call, message):
    with pytest.raises(ConfigError, match=message):
        call(rows(5, 7))


def test_a_data_frame_gives_an_array():
    V = rows(5, 7)
    frame = pd.DataFrame(V.numpy())
    np.testing.assert_array_equal(aggregate(frame, "krum", f=1), aggregate(V, "krum", f=1).numpy())
