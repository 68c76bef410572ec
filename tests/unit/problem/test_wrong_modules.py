"""Modules that cannot be trained: each is refused before anything starts, in a sentence that names it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.unit.problem.nets import Net, assert_refused

HERE = "tests.unit.problem.test_wrong_modules"


class Raises(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(6, classes)


class RaisesItself(Net):
    def forward(self, features):
        raise KeyError("nothing here")


class WantsMore(Net):
    def forward(self, features, mask):  # type: ignore[override]
        return super().forward(features)


class OtherDtype(Net):
    def forward(self, features):
        return super().forward(features.float())


class WantsImages(Net):
    def prepare(self, features, classes):
        self.first = nn.Conv2d(1, 2, 3)


class Dictionary(Net):
    def forward(self, features):
        return {"scores": super().forward(features)}


class Classes(Net):
    def forward(self, features):
        return super().forward(features).argmax(1)


class TooFew(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(5, classes - 1)


class OneOutput(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(5, 1)


class Squeezed(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(5, 1)

    def forward(self, features):
        return super().forward(features).squeeze()


class NoBatch(Net):
    def forward(self, features):
        return super().forward(features).sum(0)


class Nan(Net):
    def prepare(self, features, classes):
        self.second = nn.Sequential(nn.Linear(5, classes), Root())


class Root(nn.Module):
    def forward(self, features):
        return (-1 - features.abs()).sqrt()


class NanGradient(Net):
    def prepare(self, features, classes):
        nn.init.zeros_(self.first.weight), nn.init.zeros_(self.first.bias)

    def forward(self, features):
        return self.second(self.first(features).abs().sqrt())


class ChangesInput(Net):
    def forward(self, features):
        return super().forward(features.sub_(1.0))


class InPlace(Net):
    def forward(self, features):
        return super().forward(nn.functional.relu(features, inplace=True))


class Detached(Net):
    def forward(self, features):
        return super().forward(features).detach()


class NoGrad(Net):
    @torch.no_grad()
    def forward(self, features):
        return super().forward(features)


class FunctionalDropout(Net):
    def forward(self, features):
        return self.second(F.dropout(self.first(features)))


class Noise(nn.Module):
    def forward(self, features):
        return features + 0.1 * torch.randn_like(features)


class NoisyLayer(Net):
    def prepare(self, features, classes):
        self.noise = Noise()

    def forward(self, features):
        return self.second(self.noise(self.first(features)))


class NumpyNoise(Net):
    def forward(self, features):
        return super().forward(features) * np.random.default_rng().random()


class Counts(Net):
    def prepare(self, features, classes):
        self.passes = 0

    def forward(self, features):
        self.passes += 1
        return super().forward(features) / self.passes


class Normed(Net):
    def prepare(self, features, classes):
        self.norm = nn.BatchNorm1d(5)


class NormedByTheBatch(Net):
    def prepare(self, features, classes):
        self.norm = nn.BatchNorm1d(5, track_running_stats=False)


class SoftmaxOverTheBatch(Net):
    def forward(self, features):
        return super().forward(features).softmax(0)


class CentredByTheBatch(Net):
    def forward(self, features):
        return super().forward(features - features.mean(0))


class Moving(Net):
    seen: torch.Tensor

    def prepare(self, features, classes):
        self.register_buffer("seen", torch.zeros(features))

    def forward(self, features):
        if self.training:
            self.seen.mul_(0.9).add_(features.mean(0), alpha=0.1)
        return super().forward(features - self.seen)


class Listed(Net):
    def prepare(self, features, classes):
        self.rest = [nn.Linear(5, 5), nn.Linear(5, 5)]


class Loose(Net):
    def prepare(self, features, classes):
        self.scale = torch.ones(classes, requires_grad=True)

    def forward(self, features):
        return super().forward(features) * self.scale


class Complex(Net):
    def prepare(self, features, classes):
        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))


class OnMeta(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(5, classes, device="meta")


class AllFrozen(Net):
    def prepare(self, features, classes):
        self.requires_grad_(False)


class Nothing(nn.Module):
    def __init__(self, feature_shape, classes):
        super().__init__()

    def forward(self, features):
        return features[:, :2]


class OneMemory(Net):
    def prepare(self, features, classes):
        self.third = nn.Linear(5, classes)
        self.third.weight = nn.Parameter(self.second.weight.data)


WRONG = [
    (
        "Raises",
        2,
        r"cannot take features \[1, 12\] in float64: its layer 'second' \(Linear\) raises RuntimeError: mat1 and mat2",
    ),
    (
        "RaisesItself",
        2,
        r"cannot take features .*: it raises KeyError: 'nothing here' \(test_wrong_modules.py, line \d+\)",
    ),
    ("WantsMore", 2, r"cannot take features .* raises TypeError: .*'mask'"),
    ("OtherDtype", 2, r"cannot take features .* in float64: its layer 'first' \(Linear\) raises RuntimeError"),
    ("WantsImages", 2, r"cannot take features \[1, 12\] .*: its layer 'first' \(Conv2d\) raises"),
    ("Dictionary", 2, r"returns a dict; its forward must return its outputs"),
    ("Classes", 2, r"returns torch.int64, not the logits"),
    ("TooFew", 4, r"has 3 outputs, and the data have 4 classes; want \[1, 4\]"),
    ("OneOutput", 3, r"returns logits of shape \[1, 1\] for 1 of the samples; want \[1, 3\]"),
    ("Squeezed", 2, r"returns logits of shape \[\] for 1 of the samples; want \[1, 2\] or \[1\]"),
    ("NoBatch", 3, r"returns logits of shape \[3\] for 1 of the samples; want \[1, 3\]"),
    ("Nan", 2, r"returns numbers that are not finite at its start; first in layer 'second.1' \(Root\)"),
    ("NanGradient", 2, r"has a gradient that is not finite at its start, that of its parameter 'first.weight'"),
    ("ChangesInput", 2, r"changes the features that it is given"),
    ("InPlace", 2, r"changes the features that it is given"),
    ("Detached", 2, r"has a loss that does not depend on its parameters"),
    ("NoGrad", 2, r"has a loss that does not depend on its parameters"),
    (
        "FunctionalDropout",
        2,
        r"gives another output when the same samples pass a second time, first before layer 'second' \(Linear\)\. .*F.dropout",
    ),
    (
        "NoisyLayer",
        2,
        r"gives another output when .* second time, first in layer 'noise' \(Noise\)",
    ),
    ("NumpyNoise", 2, r"gives another output when the same samples pass a second time"),
    ("Counts", 2, r"gives another output when the same samples pass a second time"),
    ("Normed", 2, r"has batch norm, layer 'norm' \(BatchNorm1d\)"),
    ("NormedByTheBatch", 2, r"has batch norm, layer 'norm' \(BatchNorm1d\)"),
    ("SoftmaxOverTheBatch", 3, r"gives a sample another output when others are in its batch"),
    ("CentredByTheBatch", 2, r"gives a sample another output when others are in its batch"),
    ("Moving", 2, r"changes its buffer 'seen' while it trains"),
    ("Listed", 2, r"keeps layers in 'rest' of Listed, a list, where torch does not see .*nn.ModuleList"),
    ("Loose", 2, r"has a tensor 'scale' in Loose that wants gradients and is not an nn.Parameter"),
    ("Complex", 2, r"has a parameter 'phase' that is complex"),
    ("OnMeta", 2, r"has a parameter 'second.weight' that has no values"),
    ("AllFrozen", 2, r"there is nothing to train in .*: they are all frozen"),
    ("Nothing", 2, r"there is nothing to train in .*: it has no parameters"),
    ("OneMemory", 2, r"has two parameters in one piece of memory, '(second|third).weight' and '(second|third).weight'"),
]


@pytest.mark.parametrize(("name", "classes", "complaint"), WRONG, ids=[name for name, _, _ in WRONG])
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_trained_is_refused_before_anything_starts(name, classes, complaint):
    assert_refused(f"{HERE}:{name}", classes, complaint)
