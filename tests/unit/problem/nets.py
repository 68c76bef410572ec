"""The module that those of the tests are made from, and a run of one."""

from typing import Any

import torch
from torch import nn

from tests.support.cases import BASE


def config(name, classes=2, **more):
    """Return the configuration of a run whose model is ``name``, of the form module:Name."""
    data = {**BASE["data"], "classes": classes}
    return {**BASE, "data": data, "model": {"name": name, **more}, "dtype": "float64"}


class Net(nn.Module):
    """Two layers; a case overrides what it is about."""

    def __init__(self, feature_shape, classes):
        super().__init__()
        self.first: Any = nn.Linear(feature_shape[0], 5)
        self.second: Any = nn.Linear(5, classes)
        self.prepare(feature_shape[0], classes)

    def prepare(self, features, classes):
        pass

    def forward(self, features):
        return self.second(torch.tanh(self.first(features)))
