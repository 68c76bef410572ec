"""`aggregate`: the buffers and loops that it keeps between calls, and inputs of every kind."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from byzdist.aggregation import RULES, Aggregator, Facts, aggregate, free_workspaces, oneshot, vectors
from byzdist.aggregation.coordinate import trimmed_mean
from byzdist.aggregation.kernels import native, native_columns
from byzdist.aggregation.rules import Rule, minority
from byzdist.errors import ConfigError
from byzdist.registry import Named
from tests.support.standins import failing, watched

NAMED = [{"name": "ctma", "rule": "trimmed_mean"} if r == "ctma" else {"name": r} for r in RULES]
HERE = "tests.unit.aggregation.test_oneshot"
compiled = pytest.mark.skipif(not native.is_possible(), reason="needs a C compiler")
met = threading.Barrier(2, timeout=20)


@pytest.fixture(autouse=True)
def nothing_kept():
    free_workspaces()
    yield
    free_workspaces()


def rows(n, d, dtype=torch.float64, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def meeting(matrix, f):
    """The mean; it waits until two calls are here, so that both use tiles of their workspaces at once."""
    met.wait()
    mean = matrix.mean(0)
    met.wait()
    return mean


def adding_up(matrix, f, memory):
    memory["sum"] = memory.get("sum", 0) + matrix.sum(0)
    return memory["sum"]


remembering = Rule(adding_up, "plain", Facts(minority, "1/2", ""), remembers=True)


def test_two_calls_at_once_do_not_share_buffers():
    given = [rows(5, 3000, seed=i) for i in range(2)]
    pre: list[Named] = [{"name": "clip", "threshold": 1e9}, "nnm"]  # so that the mixed rows are in the workspace
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda V: aggregate(list(V), f"{HERE}:meeting", pre=pre), given))
    for V, result in zip(given, found, strict=True):
        torch.testing.assert_close(result, V.mean(0))
    assert len(oneshot._idle._held) == 2


def test_results_are_memory_of_their_own():
    V = rows(5, 4000)
    kinds = [V, V.numpy(), list(V), [{"w": row} for row in V]]
    for given in kinds:
        first = aggregate(given, "krum", f=1)
        first = torch.as_tensor(first["w"] if isinstance(first, dict) else first)
        before = first.clone()
        for other in kinds:
            aggregate(
                [{"w": -row["w"]} for row in other] if isinstance(other[0], dict) else [-row for row in other], "mean"
            )
        assert torch.equal(first, before) and torch.equal(before, V[(V == before).all(1)][0])


def test_a_rule_that_remembers_begins_anew():
    V = rows(4, 30)
    for _ in range(3):
        torch.testing.assert_close(aggregate(V, f"{HERE}:remembering"), V.sum(0))


def test_what_is_kept_is_bounded_and_can_be_freed(monkeypatch):
    for d in (1000, 20_000):
        aggregate(rows(10, d), "krum", f=2)
    (workspace,) = oneshot._idle._held
    assert 0 < workspace.bytes() < 10 * 20_000 * 8
    most = workspace.bytes()
    monkeypatch.setattr(oneshot, "MAX_IDLE_BYTES", most)
    aggregate(list(rows(10, 20_000)), "krum", f=2)
    assert 0 < workspace.bytes() <= most
    free_workspaces()
    assert not oneshot._idle._held


@compiled
def test_loops_are_made_for_the_third_call_and_kept(monkeypatch):
    monkeypatch.setattr("byzdist.aggregation.engine._MANY", 0)
    V = rows(5, 40)
    with watched(native_columns, "make_loop") as made:
        results = [aggregate(V, "coordinate_median") for _ in range(5)]
        assert len(made) == 1 and all(torch.equal(result, results[0]) for result in results)
        aggregate(V, "coordinate_median", f=1)
        assert len(made) == 1, "another f is another loop"


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loop_of_a_column_rule_sees_what_is_not_finite(dtype):
    loop, limit = native_columns.make_loop(trimmed_mean.function, 5, 1, {}, dtype), torch.finfo(dtype).max
    V = rows(5, 77, dtype)
    V[0, :3] = torch.tensor([limit, -limit, torch.finfo(dtype).smallest_normal / 4], dtype=dtype)
    out = torch.empty(77, dtype=dtype)
    assert loop(V, out) is True
    for row, column, value in [(0, 0, "nan"), (2, 40, "inf"), (4, 76, "-inf"), (3, 1, "-nan")]:
        bad = V.clone()
        bad[row, column] = float(value)
        assert loop(bad, out) is False


@pytest.mark.parametrize("rule", NAMED, ids=lambda r: r["name"])
@pytest.mark.parametrize("pre", [[], ["nnm"], [{"name": "bucketing", "size": 2}]], ids=["", "nnm", "bucketing"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_not_finite_are_found_by_whatever_pass_comes_first(rule, pre, dtype):
    V = rows(13, 300, dtype)
    V[3, 7], V[9, 299], V[12] = float("nan"), float("-inf"), float("inf")
    rest = [i for i in range(13) if i not in (3, 9, 12)]
    aggregator, draws = Aggregator(rule, pre), np.random.default_rng
    result = aggregator(V, f=4, generator=draws(1), nonfinite="drop")
    expected = aggregator(V[rest], f=1, generator=draws(1))
    assert result.dropped == (3, 9, 12) and torch.equal(result.vector, expected.vector)
    with pytest.raises(ConfigError, match=r"rows \[3, 9, 12\]"):
        aggregator(V, f=1, nonfinite="error")


@compiled
@pytest.mark.parametrize("rule", ["trimmed_mean", "mean", "cge", "krum"])
def test_compiled_passes_find_them_as_well(rule):
    V, aggregator = rows(6, 300, torch.float32), Aggregator(rule, compile=True)
    with failing(vectors, "nonfinite_rows", AssertionError("a pass of its own")):
        assert aggregator(V, f=1, nonfinite="drop").dropped == ()
    V[2, 299] = float("inf")
    result = aggregator(V, f=2, nonfinite="drop")
    assert result.dropped == (2,)
    assert torch.equal(result.vector, aggregator(V[[0, 1, 3, 4, 5]], f=1).vector)


def test_finite_rows_whose_sums_are_not_are_kept():
    V = torch.full((3, 5), 3e38)
    for rule in ("mean", "coordinate_median", "krum"):
        result = Aggregator(rule)(V, nonfinite="drop")
        assert result.dropped == () and result.vector.isfinite().all()


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).double())


def test_state_dicts_come_back_as_one():
    states = [net(seed).state_dict() for seed in range(5)]
    for seed, state in enumerate(states):
        state["1.num_batches_tracked"].fill_(10 * seed)
    result = aggregate(states, "coordinate_median", f=1)
    assert type(result) is type(states[0]) and list(result) == list(states[0])
    for name, value in result.items():
        assert value.dtype == states[0][name].dtype and value.shape == states[0][name].shape
        middle = torch.stack([state[name].double() for state in states]).quantile(0.5, dim=0)
        torch.testing.assert_close(value, middle.to(value.dtype))
    assert result["1.num_batches_tracked"] == 20
    net(9).load_state_dict(result)


def test_state_dicts_of_arrays_and_a_hostile_one():
    states: list[dict[str, Any]] = [
        {"w": np.full((2, 2), i, np.float32), "n": np.array([i, 9 - i]), "b": np.float32(i)} for i in range(5)
    ]
    states[4]["w"][0, 0], states[4]["n"][0] = np.inf, -(2**60)
    result = aggregate(states, "mean", f=1, nonfinite="drop")
    assert isinstance(result["w"], np.ndarray) and result["w"].dtype == np.float32
    assert (result["w"] == 1.5).all() and result["b"] == 1.5 and result["n"].tolist() == [1, 7], (
        "of four the lower middle"
    )
    with pytest.raises(ConfigError, match=r"rows \[4\] hold NaN"):
        aggregate(states, "mean", f=1)


def test_lists_of_tensors_and_arrays_have_the_shape_of_one():
    V = rows(5, 24, torch.float32)
    expected = aggregate(V, "trimmed_mean", f=1).view(2, 3, 4)
    result = aggregate([row.view(2, 3, 4) for row in V], "trimmed_mean", f=1)
    assert torch.equal(result, expected)
    array = aggregate([row.view(2, 3, 4).numpy() for row in V], "trimmed_mean", f=1)
    assert isinstance(array, np.ndarray) and (array == expected.numpy()).all()
    half = aggregate([row.view(2, 12).bfloat16() for row in V], "trimmed_mean", f=1)
    assert half.dtype == torch.bfloat16 and torch.equal(half.view(24), aggregate(V.bfloat16(), "trimmed_mean", f=1))


@pytest.mark.parametrize(
    "given, message",
    [
        ([{"a": torch.ones(2)}, {"b": torch.ones(2)}], "input 1 lacks a and also has b"),
        ([{"a": torch.ones(2)}, {"a": torch.ones(3)}], r"input 1: a is \(3,\), torch.float32; input 0 has \(2,\)"),
        ([{"a": torch.ones(2)}, {"a": torch.ones(2).int()}], "input 1: a is .*int32; input 0 has .*float32"),
        ([{"a": torch.ones(2)}, torch.ones(2)], "input 0 is a state_dict, input 1 a Tensor"),
        ([{"a": {"b": torch.ones(2)}}], "input 0: a is neither a tensor nor an array"),
        ([{"a": torch.ones(2).int()}], "no numbers of a floating type"),
        ([{}], "no numbers of a floating type"),
        ([{"a": torch.ones(2), "b": torch.ones(2, device="meta")}], "one device"),
        ([torch.ones(2, 2), torch.ones(4)], r"input 1 is \(4,\)"),
        ([torch.tensor(1.0)], "each input is a single number"),
        ([torch.ones(2), {"a": torch.ones(2)}], "V: n x d numbers are needed"),
    ],
)
def test_inputs_that_differ_are_named(given, message):
    with pytest.raises(ConfigError, match=message):
        aggregate(given, "mean")
