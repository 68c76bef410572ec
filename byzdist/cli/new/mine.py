"""Pieces of my own. Keyword-only arguments are parameters, which the configuration sets and byzdist checks."""

from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from byzdist.attacks import Context


def net(feature_shape: tuple[int, ...], classes: int, *, width: int = 32) -> nn.Module:
    """Two linear layers: features [b, *feature_shape] to logits [b, classes]."""
    inputs = torch.Size(feature_shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))


def middle(vectors: Tensor, f: int, *, keep: Annotated[float, Gt(0), Le(1)] = 0.5) -> Tensor:
    """Average, in each coordinate, the share ``keep`` of the n vectors [n, d] that lies in the middle; f are declared Byzantine."""
    n = len(vectors)
    drop = int((n - max(1, round(keep * n))) / 2)
    return vectors.sort(dim=0).values[drop : n - drop].mean(dim=0)


def push(now: Context, *, strength: Annotated[float, Gt(0)] = 1.0) -> Tensor:
    """Send the opposite of the honest message, ``strength`` times as long."""
    return now.honest.mul_(-strength)
