"""The names of a script's objects: different for different objects, and the same in every run."""

import inspect
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from byzdist.problem.task import Metric, Task
from byzdist.scripting.naming import Objects, digest, import_path


def rule(vectors, f):
    return vectors.mean(0)


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 2)


def of_scale(scale):
    def push(now):
        return now.honest.mul_(scale)

    return push


def test_only_what_an_import_finds_goes_by_its_path():
    assert import_path(rule) == f"{__name__}:rule" and import_path(Net) == f"{__name__}:Net"
    assert import_path(lambda: 0) is None and import_path(of_scale(1.0)) is None and import_path(Net(2)) is None


def test_two_lambdas_of_one_line_get_two_names():
    objects = Objects()
    first, second = (lambda: 0), (lambda: 0)
    names = [objects.name_of(first), objects.name_of(second)]
    assert len(set(names)) == 2 and [objects.by_name[name] for name in names] == [first, second]
    assert all(
        name.startswith(f"{__name__}:test_two_lambdas_of_one_line_get_two_names.<locals>.<lambda>#") for name in names
    )


def test_what_stands_around_a_lambda_is_not_its_source():
    first = digest(lambda x: x + 1)
    assert first == digest(lambda x:   x + 1)  # fmt: skip
    assert first != digest(lambda x: x + 2)


def test_without_source_the_compiled_code_counts():
    made = [eval(text) for text in ("lambda x: x + 1", "lambda x: x + 1", "lambda x: x + 2")]
    with pytest.raises(OSError):
        inspect.getsource(made[0])
    assert digest(made[0]) == digest(made[1]) != digest(made[2])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (of_scale(1.0), of_scale(2.0)),
        (partial(rule, f=1), partial(rule, f=2)),
        (partial(rule, f=1), rule),
        (Net(3), Net(4)),
        (np.arange(4), np.arange(4.0)),
        (np.arange(4), np.arange(4).reshape(2, 2)),
        (torch.zeros(2), torch.ones(2)),
        (([1, 2], [3]), ([1], [2, 3])),
        (Task(rule, target="classes"), Task(rule, target="numbers")),
        (Task(rule, {"a": Metric(rule)}), Task(rule, {"a": Metric(rule, "lower")})),
        ({"a": 1}, {"b": 1}),
        (Net, nn.Linear),
    ],
)
def test_what_differs_has_another_digest(one, other):
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (of_scale(1.0), of_scale(1.0)),
        (Net(3), Net(3)),  # their weights differ, which does not matter at a resume
        (np.arange(4.0), np.arange(4.0)[::1].copy()),
        (torch.zeros(2).bfloat16(), torch.zeros(2).bfloat16()),
        (Task(rule, {"a": Metric(rule)}), Task(rule, {"a": Metric(rule)})),
    ],
)
def test_what_is_the_same_has_the_same_digest(one, other):
    assert digest(one) == digest(other)


def test_lazy_layers_and_tensors_without_plain_memory_have_names():
    assert digest(nn.LazyLinear(2)) != digest(nn.LazyLinear(3))
    assert digest(torch.eye(3).to_sparse()) == digest(torch.eye(3)) != digest(torch.eye(3, device="meta"))
