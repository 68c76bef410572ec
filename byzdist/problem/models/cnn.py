"""A small convolutional network."""

from collections.abc import Sequence
from math import prod

from torch import nn

from byzdist.problem.models.base import MODELS, Regularized, Size, Weight
from byzdist.problem.models.images import ToImage, image_shape


@MODELS.register("cnn")
def cnn(
    feature_shape: Sequence[int], classes: int, *, channels: Size = 16, hidden: Size = 128, l2: Weight = 0.0
) -> nn.Module:
    """Two 5 x 5 convolutions (``channels``, then twice as many) with 2 x 2 pooling and ReLU, and two linear layers."""
    depth, height, width = image_shape("cnn", feature_shape, min_side=16)
    left = [((side - 4) // 2 - 4) // 2 for side in (height, width)]
    layers = nn.Sequential(
        ToImage(),
        nn.Conv2d(depth, channels, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * channels * prod(left), hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
    return Regularized(layers, l2)
