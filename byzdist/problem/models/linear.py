"""A linear map, for regression and for several labels."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from byzdist.problem.models.base import MODELS, Weight


@MODELS.register("linear", "linear_regression")
class Linear(nn.Module):
    """A linear map of the flattened features with a bias, from zero; the losses of byzdist's tasks are convex in it."""

    convex = True

    def __init__(self, feature_shape: Sequence[int], classes: int, *, bias: bool = True, l2: Weight = 0.0) -> None:
        super().__init__()
        self.l2 = l2
        self.map = nn.Linear(prod(feature_shape), classes, bias=bias)
        for parameter in self.map.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs of features [b, ...]: [b, outputs]."""
        outputs: Tensor = self.map(features.flatten(1))
        return outputs
