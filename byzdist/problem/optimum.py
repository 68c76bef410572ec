"""The minimum of f for convex models, to machine precision."""

import json
import logging
from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from byzdist.host.caching import cache_folder
from byzdist.host.files import read_json, write_text
from byzdist.problem.client_data import ArrayData
from byzdist.problem.data import Dataset, Split, fingerprint
from byzdist.problem.loss import Loss
from byzdist.problem.models import MODELS, build
from byzdist.problem.objective import Objective, sample_groups
from byzdist.problem.task import Batch, Task
from byzdist.registry import Named

_MAX_DIRECT = 2048  # dimensions up to which the Hessian is formed
_MAX_WORK = 10**8  # samples times parameters; with more, a single core takes minutes (MNIST: 6)
_MAX_STEPS = 100
_log = logging.getLogger(__name__)


def find_optimum(
    named: Named, task: Task, dataset: Dataset, split: Split, honest: Sequence[int], cache: Path | None = None
) -> float | None:
    """Return min f, f being the mean loss of the honest clients; None if it cannot be found.

    Args:
        named: the model section of a configuration.
        task: what is learnt.
        dataset: the data, with features in float64.
        split: who holds which samples.
        honest: the clients whose mean loss is f.
        cache: the folder in which results are kept (see :func:`byzdist.host.caching.cache_folder`).
    """
    spec = MODELS.check(named, "model")
    model = build(spec, dataset.feature_shape, dataset.classes, seed=0)
    loss = Loss(model, task)
    samples = ArrayData(dataset, split, chunk=loss.chunk(prod(dataset.feature_shape)))
    if not can_be_found(loss, len(dataset.labels)):
        return None
    groups = sample_groups(split, honest)
    contents = [(weight, positions if positions is None else positions.tolist()) for weight, positions in groups]
    key = fingerprint(spec.plain(), dataset.key, contents, entry=MODELS.get(spec.name))
    file = (cache or cache_folder()) / "optimum" / f"{key}.json"
    found = _read(file)
    if found is None:
        found = minimize(Objective(loss, samples, groups))
        if found is not None:
            _write(file, found)
    return found


def can_be_found(loss: Loss, samples: int) -> bool:
    """Return whether the minimum of f over this many samples is found in reasonable time; for a convex model, log why not.

    The loss may have any dtype; only `find_optimum` needs float64.
    """
    if not loss.declared.convex or loss.task.target not in ("classes", "numbers", "labels"):
        return False
    if loss.l2 <= 0:
        _log.warning("the gap is not reported: with model.l2 = 0 the loss need not have a minimum")
        return False
    if samples * loss.flat.dimension > _MAX_WORK:
        _log.warning(
            "the gap is not reported: finding the minimum over %d samples and %d parameters takes minutes",
            samples,
            loss.flat.dimension,
        )
        return False
    return True


def minimize(objective: Objective, direct: int = _MAX_DIRECT) -> float | None:
    """Return the minimum of a convex objective with l2 > 0 by Newton's method, from x^0.

    f is 2·l2-strongly convex, hence f(x) - min f <= ‖∇f(x)‖² / (4·l2). The method stops when this bound is below the
    rounding error of f(x). Up to dimension ``direct`` the Hessian is formed and factorized.
    """
    loss = objective.loss
    x, gradient = loss.flat.initial(), loss.flat.initial()
    value, _ = objective(x, gradient)
    solve = _direct if loss.declared.hessian and loss.flat.dimension <= direct else _conjugate_gradients
    trial, trial_gradient = torch.empty_like(x), torch.empty_like(x)
    for _ in range(_MAX_STEPS):
        rounding = torch.finfo(x.dtype).eps * abs(value)
        if float(gradient @ gradient) / (4 * loss.l2) <= rounding:
            return value
        step = solve(objective, x, gradient)
        slope, length = float(step @ gradient), 1.0
        while length > 1e-12:  # Armijo's condition, up to the rounding of f
            torch.add(x, step, alpha=length, out=trial)
            trial_value, _ = objective(trial, trial_gradient)
            if trial_value <= value + 1e-4 * length * slope + rounding:
                break
            length /= 2
        x, trial, gradient, trial_gradient, value = trial, x, trial_gradient, gradient, trial_value
    _log.warning("the gap is not reported: no minimum of the loss was found in %d Newton steps", _MAX_STEPS)
    return None


def _direct(objective: Objective, x: Tensor, gradient: Tensor) -> Tensor:
    loss = objective.loss
    assert loss.declared.hessian is not None
    hessian = torch.eye(len(x), dtype=x.dtype) * (2 * loss.l2)
    for weight, positions in objective.groups:
        for (features, _), _ in objective.data.blocks(positions):
            hessian.add_(loss.declared.hessian(x, features), alpha=weight)
    return torch.cholesky_solve(-gradient[:, None], torch.linalg.cholesky(hessian)).squeeze(1)


def _conjugate_gradients(objective: Objective, x: Tensor, gradient: Tensor) -> Tensor:
    """Return Newton's step, solved to a residual that shrinks with the gradient, so that the method converges superlinearly."""
    step, residual = torch.zeros_like(x), -gradient
    direction, square = residual.clone(), float(residual @ residual)
    goal = square * min(0.1, square**0.25) ** 2
    for _ in range(len(x)):
        image = _hessian_product(objective, x, direction)
        rate = square / float(direction @ image)
        step.add_(direction, alpha=rate)
        residual.sub_(image, alpha=rate)
        square, last = float(residual @ residual), square
        if square <= goal:
            break
        direction.mul_(square / last).add_(residual)
    return step


def _hessian_product(objective: Objective, x: Tensor, vector: Tensor) -> Tensor:
    """Return the Hessian at x times a vector: the derivative of the gradient along it."""
    loss = objective.loss

    def mean_loss(flat: Tensor, batch: Batch) -> Tensor:
        weights = loss.flat.pieces(flat)
        found: Tensor = loss.task.loss(partial(torch.func.functional_call, loss.model, weights), batch)
        return found

    product = vector * (2 * loss.l2)
    for weight, positions in objective.groups:
        for batch, samples in objective.data.blocks(positions):
            gradient = torch.func.grad(partial(mean_loss, batch=batch))
            product.add_(torch.func.jvp(gradient, (x,), (vector,))[1], alpha=weight * samples)
    return product


def _read(file: Path) -> float | None:
    try:
        return float(read_json(file)["minimum"])
    except (OSError, ValueError, KeyError, TypeError):  # no such file, or a damaged one
        return None


def _write(file: Path, minimum: float) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"minimum": minimum}), durable=False)
    except OSError as error:
        _log.warning("the minimum of the loss cannot be kept for the next run: %s", error)
