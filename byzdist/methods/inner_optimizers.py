"""Inner optimizers: the steps that a client takes on its own within a round of `local_steps`.

An inner optimizer is a function that is called once for each step.

Args:
    y: the client's model, d values, to be changed in place.
    gradient: the gradient at y on a mini-batch, d values, which may be overwritten.
    state: the optimizer's memory, tensors by name, to be read and written; empty at first.

Example:
    >>> import torch
    >>> def of_signs(y: torch.Tensor, gradient: torch.Tensor, state: dict[str, torch.Tensor], *, step_size: float) -> None:
    ...     y.sub_(gradient.sign_(), alpha=step_size)
    >>> y = torch.zeros(3)
    >>> of_signs(y, torch.tensor([-2.0, 0.0, 5.0]), {}, step_size=0.5)
    >>> y
    tensor([ 0.5000,  0.0000, -0.5000])
"""

from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor

from byzdist.methods import server_optimizers
from byzdist.methods.schedules import Step
from byzdist.methods.server_optimizers import Decay
from byzdist.registry import Registry
from byzdist.rounds import Memory

INNER: Registry[Callable[..., None]] = Registry("inner optimizer", "y", "gradient", "state")

Shrinkage = Annotated[float, Ge(0)]


@INNER.register("sgd")
def sgd(y: Tensor, gradient: Tensor, state: Memory, *, step_size: Step, weight_decay: Shrinkage = 0.0) -> None:
    """SGD: y = (1 - ηw) y - η·gradient."""
    y.mul_(1 - step_size * weight_decay).sub_(gradient, alpha=step_size)


@INNER.register("momentum")
def momentum(
    y: Tensor,
    gradient: Tensor,
    state: Memory,
    *,
    step_size: Step,
    momentum: Decay = 0.9,
    weight_decay: Shrinkage = 0.0,
) -> None:
    """Heavy ball: m = β m + gradient and y = (1 - ηw) y - η m."""
    server_optimizers.sgd(gradient, state, gradient, momentum=momentum)
    sgd(y, gradient, state, step_size=step_size, weight_decay=weight_decay)


@INNER.register("adamw", "adam")
def adamw(
    y: Tensor,
    gradient: Tensor,
    state: Memory,
    *,
    step_size: Step,
    beta1: Decay = 0.9,
    beta2: Decay = 0.999,
    epsilon: Annotated[float, Gt(0)] = 1e-8,
    weight_decay: Shrinkage = 0.0,
) -> None:
    """AdamW, as in torch: y = (1 - ηw) y - η m̂ / (√v̂ + ε), with bias-corrected means m̂ of gradients and v̂ of their squares."""
    server_optimizers.adam(gradient, state, gradient, beta1=beta1, beta2=beta2, epsilon=epsilon)
    sgd(y, gradient, state, step_size=step_size, weight_decay=weight_decay)
