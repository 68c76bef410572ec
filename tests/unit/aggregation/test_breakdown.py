"""The number of Byzantine rows that steps and rule tolerate: that many do no harm in any position, and one more decides the result."""

import itertools
import math

import numpy as np
import pytest
import torch

from byzdist.aggregation import RULES, Aggregator, Facts, aggregate, max_byzantine
from byzdist.aggregation.rules import Rule
from byzdist.errors import ConfigError
from byzdist.registry import Named

BUCKETS = {"name": "bucketing", "size": 2}
ROBUST = [
    {"name": "ctma", "rule": "trimmed_mean"} if name == "ctma" else {"name": name}
    for name in RULES
    if name not in ("mean", "cge")
]
CHAINS: list[list[Named]] = [
    [],
    ["nnm"],
    ["arc"],
    [BUCKETS],
    [BUCKETS, "nnm"],
    ["nnm", BUCKETS],
    [{"name": "clip", "threshold": 99.0}],
]


@pytest.mark.parametrize(
    ("rule", "pre", "n", "expected"),
    [
        ("coordinate_median", [], 20, 9),
        ("coordinate_median", [BUCKETS], 20, 4),  # the paper's own setting: 5 of 20 are not tolerated
        ("coordinate_median", [BUCKETS], 21, 5),
        ("coordinate_median", [BUCKETS], 4, 0),
        ("coordinate_median", [BUCKETS, BUCKETS], 20, 2),
        ("coordinate_median", [{"name": "bucketing", "size": 1}], 20, 9),
        ("coordinate_median", [{"name": "bucketing", "size": 30}], 20, 0),
        ("krum", ["nnm"], 20, 8),
        ({"name": "krum", "margin": 6}, [], 20, 6),
        ("bulyan", ["arc", BUCKETS], 20, 1),
        ("smea", [], 40, 4),  # C(40, 5) subsets are too many to look at
        ({"name": "ctma", "rule": "bulyan"}, [], 20, 4),
        ({"name": "ctma", "rule": "mean"}, [], 20, 0),
        ({"name": "centered_clip", "start": "zero"}, [], 20, 0),
        ("mean", ["nnm", "arc"], 20, 0),
        ("cge", [], 20, 0),
    ],
)
def test_how_many_rows_a_chain_tolerates(rule, pre, n, expected):
    assert max_byzantine(rule, pre, n) == Aggregator(rule, pre).max_byzantine(n) == expected


@pytest.mark.parametrize("rule", list(RULES))
def test_few_rows_tolerate_none_and_no_chain_more_than_its_rule_or_a_minority(rule):
    rule = {"name": rule, "rule": "krum"} if rule == "ctma" else rule
    for n, pre in itertools.product(range(9), CHAINS):
        most = max_byzantine(rule, pre, n)
        assert 0 <= most <= max_byzantine(rule, [], n) <= max(0, (n - 1) // 2)
        assert most <= Aggregator(rule, pre).max_f(n)  # so that the rule may be told of them all


def worst(rule, pre, n, hostile, honest):
    """Return the largest distance to the honest mean, over hostile rows of several sizes and over groups drawn again."""
    groups, errors, aggregator = range(4 if BUCKETS in pre else 1), [], Aggregator(rule, pre)
    for size, seed in itertools.product((1.0, -1.0, 30.0, -1e6, 1e15), groups):
        V = honest.clone()
        V[:hostile] = size
        f = min(hostile, aggregator.max_f(n))
        result = aggregator(V, f=f, generator=np.random.default_rng(seed)).vector
        errors.append(float((result - honest[hostile:].mean(0)).norm()))
    return max(errors)


@pytest.mark.parametrize("rule", ROBUST, ids=lambda rule: rule["name"])
@pytest.mark.parametrize("pre", CHAINS, ids=str)
def test_as_many_rows_as_are_tolerated_move_the_result_by_what_the_others_differ_at_most(rule, pre):
    n = 15
    hostile = max_byzantine(rule, pre, n)
    honest = torch.from_numpy(np.random.default_rng(1).normal(size=(n, 8))) * 1e-3 + 2
    assert worst(rule, pre, n, hostile, honest) < 20 * 1e-3 * math.sqrt(8)


@pytest.mark.parametrize("name", ["coordinate_median", "trimmed_mean", "meamed", "geometric_median", "mda", "caf"])
@pytest.mark.parametrize("pre", [[], [BUCKETS]], ids=str)
def test_one_row_more_decides(name, pre):
    n = 16
    hostile = max_byzantine(name, pre, n) + 1
    V = torch.ones(n, 3, dtype=torch.float64)
    V[:hostile] = 1e6
    aggregator = Aggregator(name, pre)
    draws = [
        aggregator(V, f=hostile, generator=np.random.default_rng(seed)).vector for seed in range(200 if pre else 1)
    ]
    assert max(float(draw.max()) for draw in draws) > 1e5


@pytest.mark.parametrize("rule", ["krum", "multi_krum", "geometric_median", "mda", "monna", "centered_clip", "caf"])
@pytest.mark.parametrize("size", [1e8, 1e10, 1e12])
def test_hostile_rows_that_cancel_in_a_bucket_do_not_look_near(rule, size):
    """Their mean is far beside the honest and small beside themselves: too small for a sum of squares of theirs to tell."""
    V = torch.from_numpy(np.random.default_rng(3).normal(size=(16, 6))) * 1e-3
    V[0], V[1] = size, -size
    V[1, 0] += 3e-9 * size
    aggregator, together = Aggregator(rule, [BUCKETS]), 0
    for seed in range(60):
        order = np.random.default_rng(seed).permutation(16).tolist()
        if order.index(0) // 2 == order.index(1) // 2:
            together += 1
            result = aggregator(V, f=2, generator=np.random.default_rng(seed)).vector
            assert (result - V[2:].mean(0)).norm() < 0.05
    assert together


@pytest.mark.parametrize("name", ["mean", "cge"])
def test_rules_that_tolerate_none_are_moved_by_one_row_where_all_others_agree(name):
    V = torch.ones(9, 2)
    V[0] = -1.0
    assert (aggregate(V, name, f=1) - 1).abs().max() > 0.1


def own(matrix, f):
    return matrix[0]


declared = Rule(own, "plain", Facts(lambda n, **_: n - 1, "1/4", "", max_byzantine=lambda n, **_: n // 4))


def test_a_rule_of_the_users_own_is_taken_at_its_word():
    assert max_byzantine(f"{__name__}:own", [BUCKETS], 20) == 4
    assert max_byzantine(f"{__name__}:declared", [], 20) == 5
    assert max_byzantine(f"{__name__}:declared", [BUCKETS], 20) == 2
    with pytest.raises(ConfigError, match="unknown rule 'krumm'"):
        max_byzantine("krumm", [], 20)
