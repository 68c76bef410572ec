"""What the models of images share."""

from collections.abc import Sequence

from torch import Tensor, nn

from byzdist.errors import ConfigError


class ToImage(nn.Module):
    """Give grey images [b, height, width] the axis of channels that convolutions want."""

    def forward(self, features: Tensor) -> Tensor:
        """Return [b, channels, height, width]."""
        return features.unsqueeze(1) if features.ndim == 3 else features


def image_shape(model: str, feature_shape: Sequence[int], min_side: int) -> tuple[int, int, int]:
    """Return (channels, height, width) of images of at least ``min_side`` pixels a side; raise ConfigError for other features."""
    shape = (1, *feature_shape) if len(feature_shape) == 2 else tuple(feature_shape)
    if len(shape) != 3 or min(shape[1:]) < min_side:
        raise ConfigError(
            f"model.name: {model!r} wants images [height, width] or [channels, height, width] of {min_side} pixels a side"
            f" or more; this data set has features of shape {list(feature_shape)}. Use 'mlp' or other data."
        )
    return shape
