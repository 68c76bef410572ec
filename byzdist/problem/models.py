"""The models: what turns features into logits, and the loss.

A model is a torch module made by ``name(feature_shape, classes, **parameters)``. Its forward maps features [b,
*feature_shape] to logits [b, classes], or [b] or [b, 1] where two classes need one logit. Of one's own
(``module.path:Name``) nothing more is asked; what it may declare, a regularizer or a loss, say, is in
:mod:`byzdist.problem.modules`. Frozen parameters stay as they are, and tied ones count once.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, MinLen
from torch import Tensor, nn

from byzdist.errors import ConfigError
from byzdist.problem import modules
from byzdist.randomness import stream
from byzdist.registry import Named, Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model", "feature_shape", "classes")

Size = Annotated[int, Ge(1)]
Weight = Annotated[float, Ge(0)]
Array = Any
"""A torch tensor or a numpy array."""
_SMALL = (
    2**13
)  # numbers in a batch for which calls cost more than arithmetic; numpy's BLAS starts no threads for so few


def build(named: Named, feature_shape: Sequence[int], classes: int, seed: int) -> nn.Module:
    """Return the model of a configuration's model section, the same in every process, on the CPU.

    Raises:
        ConfigError: an unknown name, a wrong parameter, or data that the model does not fit.
    """
    spec = MODELS.check(named, "model")
    name, default = spec.name, torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):  # torch's own initializers draw from its global generator only
        torch.manual_seed(int(stream(seed, "model").integers(2**63)))
        try:
            model = MODELS.build(spec, tuple(feature_shape), classes, key="model")
        except (ConfigError, MemoryError):
            raise
        except Exception as error:  # whatever a user's own code raises
            raise ConfigError(
                f"model: {name!r} cannot be made for features of shape {list(feature_shape)} and {classes} classes: "
                f"{modules.reason(error)}."
            ) from error
        finally:
            torch.set_default_dtype(default)
        if isinstance(model, nn.Module):
            return modules.materialized(model, feature_shape, name)
    what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    raise ConfigError(f"model: {name!r} makes {what}, not a torch module.")


@MODELS.register("logistic_regression", "logreg", "softmax_regression")
class LogisticRegression(nn.Module):
    """Logistic regression on the flattened features, from zero: one logit for two classes, multinomial for more.

    Gradients and Hessian are in closed form, of flat vectors [d]: the weights [classes, features] (or [features]) before the bias
    [classes] (or [1]). ``scale`` multiplies the SUM over the batch; the regularizer is not in it. Small batches on the CPU go through
    numpy, whose calls cost half as much as torch's: on a9a a round takes a third less time (tests/benchmarks/rounds.py).
    """

    convex = True

    def __init__(self, feature_shape: Sequence[int], classes: int, *, bias: bool = False, l2: Weight = 0.0) -> None:
        super().__init__()
        self.l2 = l2
        self.rows, self.columns = (1 if classes == 2 else classes), prod(feature_shape)
        self.weights, self.has_bias = self.rows * self.columns, bias
        self.weight = nn.Parameter(torch.zeros(self.rows, self.columns))
        self.bias = nn.Parameter(torch.zeros(self.rows)) if bias else None

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of features [b, ...]."""
        logits = F.linear(features.flatten(1), self.weight, self.bias)
        return logits.squeeze(1) if self.rows == 1 else logits

    def _logits(self, x: Array, features: Array) -> Array:
        weight = x[: self.weights] if self.has_bias else x
        logits = features @ (weight if self.rows == 1 else weight.reshape(self.rows, self.columns).T)
        return logits + x[self.weights :] if self.has_bias else logits

    def _add_outer(self, errors: Array, features: Array, out: Array) -> None:
        """Add to out the sum over the batch of error ⊗ (features, 1)."""
        weight = out[: self.weights] if self.has_bias else out
        if self.rows == 1:
            weight += errors @ features
        else:
            weight = weight.reshape(self.rows, self.columns)
            weight += errors.T @ features
        if self.has_bias:
            bias = out[self.weights :]
            bias += errors.reshape(-1, self.rows).sum(0)

    def add_gradient(self, x: Tensor, features: Tensor, labels: Tensor, scale: float, out: Tensor) -> Tensor:
        """Add scale times the sum of the samples' gradients at x to out; return the logits."""
        flat, x_, labels_, out_ = self._arrays(features, x, labels, out)
        logits = self._logits(x_, flat)
        probabilities = _probabilities(logits)
        errors = probabilities - (labels_ if self.rows == 1 else _one_hot(labels_, probabilities))
        self._add_outer(errors * scale, flat, out_)
        return torch.as_tensor(logits)

    def add_difference(
        self, x_new: Tensor, x_old: Tensor, features: Tensor, labels: Tensor, scale: float, out: Tensor
    ) -> None:
        """Add scale times the sum of the samples' gradients at x_new minus at x_old to out: the labels cancel."""
        flat, new, old, out_ = self._arrays(features, x_new, x_old, out)
        change = _probabilities(self._logits(new, flat)) - _probabilities(self._logits(old, flat))
        self._add_outer(change * scale, flat, out_)

    def _arrays(self, features: Tensor, *others: Tensor) -> Sequence[Array]:
        """Return features [b, columns] and the others: numpy arrays where the batch is small and on the CPU, else tensors."""
        if features.numel() > _SMALL or features.is_cuda:
            return features.flatten(1), *others
        return features.numpy().reshape(features.shape[0], -1), *[tensor.numpy() for tensor in others]

    def smoothness(self, features: Tensor) -> float:
        """Return a bound on the eigenvalues of the mean Hessian at any x, met at x = 0 with two classes: ‖X‖²/(4N), else ‖X‖²/(2N)."""
        features = features.flatten(1).double()
        if self.has_bias:
            features = torch.cat([features, features.new_ones(len(features), 1)], 1)
        square = float(torch.linalg.matrix_norm(features, 2)) ** 2
        return square / len(features) / (4 if self.rows == 1 else 2)

    def hessian(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the sum of the samples' Hessians at x, [d, d]."""
        features = features.flatten(1)
        probabilities = _probabilities(self._logits(x, features)).view(-1, self.rows)
        if self.has_bias:
            features = torch.cat([features, features.new_ones(len(features), 1)], 1)
        width = features.shape[1]
        blocks = x.new_empty(self.rows, width, self.rows, width)
        for i in range(self.rows):
            for j in range(i + 1):
                curvature = probabilities[:, i] * (float(i == j) - probabilities[:, j])
                block = (features * curvature[:, None]).T @ features
                blocks[i, :, j], blocks[j, :, i] = block, block.T
        # From (row, column) with the bias as the last column to the flat order: all weights, then the biases.
        order = torch.arange(self.rows * width, device=x.device).view(self.rows, width)
        order = torch.cat([order[:, : self.columns].flatten(), order[:, self.columns :].flatten()])
        return blocks.view(self.rows * width, -1)[order][:, order]


def _probabilities(logits: Array) -> Array:
    """Return the probabilities of the classes [b, classes], or of the second of two [b]."""
    if isinstance(logits, Tensor):
        return logits.sigmoid() if logits.ndim == 1 else logits.softmax(1)
    if logits.ndim == 1:
        return 0.5 + 0.5 * np.tanh(0.5 * logits)  # the logistic function, with nothing that overflows
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _one_hot(labels: Array, like: Array) -> Array:
    if isinstance(labels, Tensor):
        return F.one_hot(labels, like.shape[1])
    return labels[:, None] == np.arange(like.shape[1])


class Regularized(nn.Module):
    """A stack of layers, and the weight of its regularizer."""

    def __init__(self, layers: nn.Module, l2: float) -> None:
        super().__init__()
        self.layers, self.l2 = layers, l2

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of features [b, ...]."""
        logits: Tensor = self.layers(features)
        return logits


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


class ToImage(nn.Module):
    """Give grey images [b, height, width] the axis of channels that convolutions want."""

    def forward(self, features: Tensor) -> Tensor:
        """Return [b, channels, height, width]."""
        return features.unsqueeze(1) if features.ndim == 3 else features


def _image_shape(model: str, feature_shape: Sequence[int], least: int) -> tuple[int, int, int]:
    shape = (1, *feature_shape) if len(feature_shape) == 2 else tuple(feature_shape)
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ConfigError(
            f"model.name: {model!r} wants images [height, width] or [channels, height, width] of {least} pixels a side"
            f" or more; this data set has features of shape {list(feature_shape)}. Use 'mlp' or other data."
        )
    return shape


@MODELS.register("cnn")
def cnn(
    feature_shape: Sequence[int], classes: int, *, channels: Size = 16, hidden: Size = 128, l2: Weight = 0.0
) -> nn.Module:
    """Two 5 x 5 convolutions (``channels``, then twice as many) with 2 x 2 pooling and ReLU, and two linear layers."""
    depth, height, width = _image_shape("cnn", feature_shape, least=16)
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

    Batch norm would not do: its running statistics are state that no client may share.
    """
    depth, _, _ = _image_shape("resnet18", feature_shape, least=8)
    layers: list[nn.Module] = [
        ToImage(),
        nn.Conv2d(depth, 64, 3, padding=1, bias=False),
        nn.GroupNorm(1, 64),
        nn.ReLU(),
    ]
    for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [ResidualBlock(inputs, outputs, stride), ResidualBlock(outputs, outputs, 1)]
    return Regularized(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)), l2)
