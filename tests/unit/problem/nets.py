"""The base of the tests' modules, and a run of one."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.runtime.experiment import prepare
from tests.support.cases import BASE


def config(name, classes=2, **more):
    """Return the configuration of a run whose model is ``name``, of the form module:Name."""
    data = {**BASE["data"], "classes": classes}
    return {**BASE, "data": data, "model": {"name": name, **more}, "dtype": "float64"}


def assert_refused(name, classes, complaint):
    """Assert that a module is refused before anything starts, in one sentence that names it and has the complaint."""
    with pytest.raises(ConfigError) as refusal:
        prepare(parse(config(name, classes)), torch.device("cpu"))
    message = str(refusal.value)
    assert re.match(rf"model: ('{name}' )?{complaint}", message), message
    assert name.partition(":")[0] in message and "\n" not in message and message.endswith(".")


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
