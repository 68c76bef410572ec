"""The aggregation engine on an accelerator gives what it gives on the CPU, in a number of calls that does not follow d."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from byzdist.aggregation import Aggregator, aggregate
from byzdist.norms import norm

if not torch.accelerator.is_available():
    pytest.skip("torch sees no GPU or other accelerator here", allow_module_level=True)

CTMA = {"name": "ctma", "rule": "geometric_median"}
COLUMNS: list[Any] = ["coordinate_median", "trimmed_mean", "meamed", "bulyan"]
SPANS = ["mean", "krum", "multi_krum", "geometric_median", "centered_clip", "mda", "monna", "smea", "caf", "cge", CTMA]
CLIP = [{"name": "clip", "threshold": 60.0}]
PRE = [[], ["nnm"], ["arc"], [{"name": "bucketing", "size": 2}], CLIP]
VIEWS = {"_reshape_alias", "alias", "as_strided", "detach", "empty", "empty_strided", "select", "slice", "t"}
VIEWS |= {"transpose", "unfold", "unsqueeze", "view"}


def close(there, here):
    """Return whether two results agree to 1e-6 of the largest value."""
    return float((there.cpu().double() - here.double()).abs().max()) <= 1e-6 * float(here.double().abs().max())


def rows(n, d, dtype=torch.float32, common=0.0):
    """Return random rows of different norms, so that no choice between them depends on last digits."""
    V = torch.randn(n, d, generator=torch.Generator().manual_seed(n * d), dtype=torch.float64)
    return (V * torch.linspace(1, 3, n, dtype=torch.float64)[:, None] + common).to(dtype)


@pytest.mark.parametrize("pre", PRE, ids=str)
@pytest.mark.parametrize("rule", COLUMNS + SPANS, ids=str)
def test_each_rule_and_step_gives_what_it_gives_on_the_cpu(device, rule, pre):
    for V in (rows(11, 1), rows(11, 3000), rows(11, 3000, torch.float64, common=50.0), rows(70, 300)):
        if (rule == "smea" and len(V) > 20) or (rule == "cge" and pre == CLIP):  # too many subsets; equal norms
            continue
        results = [Aggregator(rule, pre)(v, f=2, generator=np.random.default_rng(0)).vector for v in (V.to(device), V)]
        assert results[0].device == device and results[0].dtype == V.dtype
        assert close(*results)


@pytest.mark.parametrize("rule", ["coordinate_median", "trimmed_mean", "mean", "geometric_median"])
def test_odd_matrices_give_what_they_give_on_the_cpu(device, rule):
    whole = rows(12, 5000)
    large, broken = whole * 1e36, whole.clone()
    large[3] *= 9.0
    broken[5, 17], broken[7, 0] = float("nan"), float("inf")
    strided = rows(24, 10_001)[::2, 1::2]
    for V in (large, broken, strided, whole.bfloat16(), whole.T.contiguous().T):
        there = V.to(device)
        if V.stride() != there.stride():
            there = torch.empty_strided(V.shape, V.stride(), dtype=V.dtype, device=device).copy_(V)
        found = [Aggregator(rule)(v, f=3, nonfinite="drop") for v in (there, V)]
        assert found[0].dropped == found[1].dropped == ((5, 7) if V is broken else ())
        assert found[0].vector.isfinite().all() and close(found[0].vector, found[1].vector)


def test_what_is_given_as_a_list_comes_back_in_its_form(device):
    inputs = [{"weight": row.view(2, 3), "bias": row[:2] * 2} for row in rows(5, 6)]
    there = aggregate([{name: part.to(device) for name, part in each.items()} for each in inputs], "median", f=1)
    here = aggregate(inputs, "median", f=1)
    for name, part in here.items():
        assert there[name].device == device and there[name].shape == part.shape and close(there[name], part)


@pytest.mark.parametrize("d", [10, 5000, 300_000])
def test_norms(device, d):
    for scale in (1.0, 1e-30, 1e30):
        vector = rows(1, d)[0] * scale
        assert norm(vector.to(device)) == pytest.approx(norm(vector), rel=1e-12)


class Calls(TorchDispatchMode):
    """Counts the calls that compute on the accelerator."""

    def __init__(self, device):
        super().__init__()
        self.device, self.names = device, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if name not in VIEWS and any(isinstance(a, torch.Tensor) and a.device == self.device for a in (*args, result)):
            self.names[name] += 1
        return result


@pytest.mark.parametrize("pre", [[], ["nnm"]], ids=str)
@pytest.mark.parametrize("rule", ["coordinate_median", "trimmed_mean", "krum", "geometric_median", "mean"])
def test_the_number_of_calls_does_not_follow_the_number_of_columns(device, rule, pre):
    """A call takes a GPU microseconds, so that narrow tiles would take most of the time."""

    def calls(d):
        aggregator, V = Aggregator(rule, pre, compile=False), rows(8, d).to(device)
        with Calls(device) as counted:
            aggregator(V, f=2)
        return counted.names.total()

    assert calls(100_000) <= calls(4_000) + 10
