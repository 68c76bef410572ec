"""Logistic regression, in closed form."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byzdist.problem.models.base import MODELS, Weight

Array = Any
"""A torch tensor or a numpy array."""
_SMALL = 2**13  # numbers in a batch; up to here calls cost more than arithmetic, and numpy's BLAS starts no threads


@MODELS.register("logistic_regression", "logreg", "softmax_regression")
class LogisticRegression(nn.Module):
    """Logistic regression on the flattened features, from zero: one logit for two classes, multinomial for more.

    Gradients and Hessian are in closed form, for flat vectors [d]: the weights [classes, features] (or [features]) before the bias
    [classes] (or [1]). ``scale`` multiplies the SUM over the batch, without the regularizer. Small batches on the CPU go through
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
        """Add scale times the sum of the samples' gradients at x_new minus at x_old to out; the labels cancel."""
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
        return 0.5 + 0.5 * np.tanh(0.5 * logits)  # the logistic function, in a form that cannot overflow
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _one_hot(labels: Array, like: Array) -> Array:
    if isinstance(labels, Tensor):
        return F.one_hot(labels, like.shape[1])
    return labels[:, None] == np.arange(like.shape[1])
