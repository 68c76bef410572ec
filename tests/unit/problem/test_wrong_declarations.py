"""Wrong declarations, modules that cannot be made, and things that are not modules: a sentence that names it refuses each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from byzdist.problem.models.logistic_regression import LogisticRegression
from tests.unit.problem.nets import Net, assert_refused

HERE = "tests.unit.problem.test_wrong_declarations"


class SumLoss(Net):
    def byzdist_loss(self, logits, labels):
        return F.cross_entropy(logits, labels, reduction="sum")


class VectorLoss(Net):
    def byzdist_loss(self, logits, labels):
        return F.cross_entropy(logits, labels, reduction="none")


class NumberLoss(Net):
    def byzdist_loss(self, logits, labels):
        return F.cross_entropy(logits, labels).item()


class RaisingLoss(Net):
    def byzdist_loss(self, logits, labels):
        return F.mse_loss(logits, F.one_hot(labels, 9).double())


class NegativeL2(Net):
    byzdist_l2 = -1.0


class LayerAsL2(Net):
    def prepare(self, features, classes):
        self.byzdist_l2 = nn.Linear(5, 5)


class WrongConvex(Net):
    byzdist_convex = "yes"


class WrongLoss(Net):
    byzdist_loss = "cross_entropy"


class WrongClosedForm(LogisticRegression):
    """Somebody builds on our class and changes the forward alone."""

    def __init__(self, feature_shape, classes):
        super().__init__(feature_shape, classes)

    def forward(self, features):
        return super().forward(torch.tanh(features))


class WrongDifference(Net):
    def byzdist_add_difference(self, x_new, x_old, features, labels, scale, out):
        out.add_(x_new - x_old)


class LazyUnused(Net):
    def prepare(self, features, classes):
        self.spare = nn.LazyLinear(3)


class LazyRaises(Net):
    def prepare(self, features, classes):
        self.first, self.second = nn.LazyLinear(6), nn.Linear(5, classes)


def fails(feature_shape, classes):
    return nn.Linear(feature_shape[1], classes)


def a_class(feature_shape, classes):
    return Net


def a_pair(feature_shape, classes):
    return Net(feature_shape, classes), F.cross_entropy


WRONG = [
    ("SumLoss", r"has a loss that is [\d.]+ for a sample and [\d.]+ for the same sample twice; it must be the mean"),
    ("VectorLoss", r"has a loss that is not a finite number of shape \[1\]"),
    ("NumberLoss", r"has a loss that is not a finite number \([\d.]+\)"),
    ("RaisingLoss", r"cannot take its own loss of logits \[1, 2\] and labels \[1\]: it raises RuntimeError"),
    ("NegativeL2", r"has a byzdist_l2 that is not a number of at least 0 \(it is -1.0\)"),
    ("LayerAsL2", r"has a byzdist_l2 that is not a number"),
    ("WrongConvex", r"has a byzdist_convex that is neither true nor false \(it is 'yes'\)"),
    ("WrongLoss", r"has a byzdist_loss that is not a function of \(logits, labels\)"),
    ("WrongClosedForm", r"has an add_gradient that is not what its forward and its loss give"),
    ("WrongDifference", r"has an add_difference that is not what its forward and its loss give"),
    ("LazyUnused", r"never uses its lazy layer 'spare' \(LazyLinear\)"),
    ("LazyRaises", r"cannot take two samples of zeros, \[2, 12\]: it raises RuntimeError"),
    (
        "fails",
        r"cannot be made for features of shape \[12\] and 2 classes: IndexError: .*\(test_wrong_declarations.py, line \d+\)",
    ),
    ("a_class", r"makes the class Net, not a torch module"),
    ("a_pair", r"makes a tuple, not a torch module"),
]


@pytest.mark.parametrize(("name", "complaint"), WRONG, ids=[name for name, _ in WRONG])
@pytest.mark.filterwarnings("ignore")
def test_what_is_declared_wrongly_is_refused_before_anything_starts(name, complaint):
    assert_refused(f"{HERE}:{name}", 2, complaint)
