"""ResNet-18 with layer norm."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from byzdist.problem.models.base import MODELS, Regularized, Weight
from byzdist.problem.models.images import ToImage, image_shape


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, each followed by a layer norm over channels and pixels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.GroupNorm(1, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(1, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(1, outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Return [b, outputs, height / stride, width / stride]."""
        return F.relu(self.convolutions(images) + self.shortcut(images))


@MODELS.register("resnet18")
def resnet18(feature_shape: Sequence[int], classes: int, *, l2: Weight = 0.0) -> nn.Module:
    """ResNet-18 (He et al. 2016) for small images: a 3 x 3 stem, and layer norm (GroupNorm of one group), as in [BRPP].

    It has no batch norm, because running statistics are state that clients cannot share.
    """
    depth, _, _ = image_shape("resnet18", feature_shape, min_side=8)
    layers: list[nn.Module] = [
        ToImage(),
        nn.Conv2d(depth, 64, 3, padding=1, bias=False),
        nn.GroupNorm(1, 64),
        nn.ReLU(),
    ]
    for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [ResidualBlock(inputs, outputs, stride), ResidualBlock(outputs, outputs, 1)]
    return Regularized(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)), l2)
