"""The smoothness L of the losses, μ, and how much clients differ: in closed form, measured, or given."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from byzdist.problem.client_data import ArrayData, PooledData, Positions
from byzdist.problem.objective import CountedObjective, Objective, is_counted
from byzdist.randomness import stream
from byzdist.runtime.advice import lipschitz
from byzdist.runtime.experiment import Experiment

_MAX_SAMPLES, _MAX_SAMPLES_NONCONVEX = 8192, 128  # from which L is measured
_ITERATIONS, _BATCHES = 20, 8
_ROUNDING = 1e-12  # of the largest eigenvalue
_DIRECT = 512  # dimensions up to which a constant Hessian is computed


@dataclass(frozen=True)
class Curvature:
    """What is known of the losses.

    Attributes:
        smoothness: L of the theorems: the gradient of every sample, or batch, is L-Lipschitz.
        of_mean: the same of the mean loss, at most ``smoothness``.
        mu: μ in ‖∇f(x)‖² >= 2μ(f(x) - f(x*)), of strongly convex losses the constant of that; None: not known.
        source: where L comes from, in words.
        mu_source: where μ comes from.
        heterogeneity: ζ² at x^0, the mean ‖∇f_i - ∇f‖² over honest clients; None: not computed.
    """

    smoothness: float
    of_mean: float
    mu: float | None
    source: str
    mu_source: str = ""
    heterogeneity: float | None = None


def curvature(experiment: Experiment) -> Curvature | None:
    """Return what can be computed or measured of the losses; None if the data are not here, or the loss is flat at x^0."""
    data = experiment.data
    if not isinstance(data, PooledData):
        return None
    if experiment.oracle.loss.declared.convex:
        found = replace(_of_convex(experiment, data), heterogeneity=_heterogeneity(experiment, data))
    else:
        found = _at_the_start(experiment, data)
    return found if 0 < found.of_mean <= found.smoothness < math.inf else None


def _of_convex(experiment: Experiment, data: PooledData) -> Curvature:
    """Return L and μ of a convex model: of logistic regression in closed form, of others by gradient differences."""
    loss, x, longest = experiment.oracle.loss, experiment.oracle.initial(), _longest(data)
    mu, mu_source = (2 * loss.l2, "2·l2, from the regularizer") if loss.l2 else (None, "")
    of_mean = lipschitz(experiment)
    if of_mean is not None and longest is not None:
        assert isinstance(data, ArrayData)
        row = data.features[torch.from_numpy(longest)]
        bound = float(loss.model.smoothness(row)) + 2 * loss.l2  # type: ignore[operator]
        source = "in closed form, of the sample with the longest features"
        return Curvature(bound, min(of_mean, bound), mu, source, mu_source)
    whole = _objective(experiment, data, _spread(data, _MAX_SAMPLES))
    hessian = _constant_hessian(whole, x)
    if hessian is None:
        of_mean, source = _largest(whole, x), "by power iteration on gradient differences at x^0"
    else:
        values = torch.linalg.eigvalsh(hessian)
        of_mean, source = float(values[-1]), "the largest eigenvalue of the Hessian, which is the same everywhere"
        positive = values[values > _ROUNDING * values[-1]]  # on a quadratic, directions without curvature do not matter
        if len(positive):
            mu, mu_source = float(positive[0]), "its smallest eigenvalue above 0"
    if longest is None:
        return Curvature(of_mean, of_mean, mu, source, mu_source)
    of_longest = _largest(_objective(experiment, data, longest), x)
    source = f"{source}, of the sample with the longest features"
    return Curvature(max(of_mean, of_longest), of_mean, mu, source, mu_source)


def _at_the_start(experiment: Experiment, data: PooledData) -> Curvature:
    """Return an estimate for a model that is not convex: the curvature at x^0, of some samples and of some mini-batches."""
    x, generator = experiment.oracle.initial(), stream(experiment.config.seed, "planning")
    of_mean = _largest(_objective(experiment, data, _spread(data, _MAX_SAMPLES_NONCONVEX)), x)
    size = min(getattr(experiment.method, "batch_size", 32), data.split.samples)
    batches = [np.sort(generator.choice(data.split.samples, size, replace=False)) for _ in range(_BATCHES)]
    of_batches = max(_largest(_objective(experiment, data, batch), x, iterations=5) for batch in batches)
    return Curvature(
        max(of_batches, of_mean),
        of_mean,
        None,
        f"an estimate: power iteration on gradient differences at x^0, the largest of {_BATCHES} mini-batches",
    )


def _spread(data: PooledData, count: int) -> Positions:
    """Return at most ``count`` places, evenly spread over the data set."""
    return np.unique(np.linspace(0, data.split.samples - 1, min(count, data.split.samples)).astype(np.int64))


def _longest(data: PooledData) -> Positions | None:
    """Return the place of the sample with the longest features; None if they are not numbers in memory."""
    if not isinstance(data, ArrayData) or not data.features.is_floating_point():
        return None
    norms = torch.linalg.vector_norm(data.features.flatten(1), dim=1)
    return np.array([int(norms.argmax())])


def _objective(experiment: Experiment, data: PooledData, positions: Positions) -> Objective:
    loss = experiment.oracle.loss
    kind = CountedObjective if is_counted(loss, data) else Objective
    return kind(loss, data, [(1 / len(positions), positions)])


def _probe_length(x: Tensor) -> float:
    """Return a length at which a gradient difference is more than rounding, and little more than a derivative."""
    third: float = float(torch.finfo(x.dtype).eps) ** (1 / 3)
    return third * max(1.0, float(torch.linalg.vector_norm(x)))


def _largest(objective: Objective, x: Tensor, iterations: int = _ITERATIONS) -> float:
    """Return the largest quotient ‖∇f(x+v) - ∇f(x)‖/‖v‖ that power iteration finds from a fixed random direction."""
    start, there, length = torch.empty_like(x), torch.empty_like(x), _probe_length(x)
    objective(x, start)
    drawn = stream(0, "direction").standard_normal(len(x))
    direction, found = torch.from_numpy(drawn).to(x), 0.0
    for _ in range(iterations):
        direction *= length / torch.linalg.vector_norm(direction)
        objective(x + direction, there)
        direction = there - start
        size = float(torch.linalg.vector_norm(direction))
        if not size > 0:  # flat, or not a number
            break
        found = max(found, size / length)
    return found


def _constant_hessian(objective: Objective, x: Tensor) -> Tensor | None:
    """Return the Hessian if it is the same at two points and not too large; None otherwise."""
    d = len(x)
    if d > _DIRECT or x.dtype != torch.float64:
        return None
    drawn = torch.from_numpy(stream(0, "direction").standard_normal((2, d))).to(x)
    away, direction = x + drawn[0], drawn[1]

    def difference(start: Tensor, step: Tensor) -> Tensor:
        here, there = torch.empty_like(x), torch.empty_like(x)
        objective(start, here)
        objective(start + step, there)
        return there - here

    if not torch.allclose(difference(x, direction), difference(away, direction), rtol=1e-8, atol=1e-10):
        return None
    hessian = torch.stack([difference(x, unit) for unit in torch.eye(d, dtype=x.dtype, device=x.device)])
    return (hessian + hessian.T) / 2


def _heterogeneity(experiment: Experiment, data: PooledData) -> float:
    """Return ζ² at x^0: the mean squared distance of the honest clients' gradients from their mean."""
    if data.split.shared:
        return 0.0
    x, honest = experiment.oracle.initial(), experiment.config.clients.honest_ids
    total, squares, gradient = torch.zeros_like(x), 0.0, torch.empty_like(x)
    for client in honest:
        experiment.oracle.gradient(x, client, None, gradient)
        total += gradient
        squares += float(gradient @ gradient)
    mean = total / len(honest)
    return max(0.0, squares / len(honest) - float(mean @ mean))
