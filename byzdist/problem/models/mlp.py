"""The multilayer perceptron."""

from collections.abc import Sequence
from math import prod
from typing import Annotated

from annotated_types import MinLen
from torch import nn

from byzdist.problem.models.base import MODELS, Regularized, Size, Weight


@MODELS.register("mlp", "multilayer_perceptron")
def mlp(
    feature_shape: Sequence[int],
    classes: int,
    *,
    hidden: Annotated[Sequence[Size], MinLen(1)] = (64,),
    l2: Weight = 0.0,
) -> nn.Module:
    """A multilayer perceptron with ReLU between its layers; ``hidden`` lists the widths of the hidden ones."""
    layers: list[nn.Module] = [nn.Flatten()]
    widths = [prod(feature_shape), *hidden]
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return Regularized(nn.Sequential(*layers, nn.Linear(widths[-1], classes)), l2)
