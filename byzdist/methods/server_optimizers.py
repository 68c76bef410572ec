"""Server optimizers: they turn the estimates up to g^k into the direction d^k of the step x^{k+1} = x^k - γ_k d^k.

They are for the methods under the clipping heuristic. The MARINA family moves by g^k itself, because its theory needs that.

An optimizer is a function that is called once, at the end of each round.

Args:
    g: g^k, d values, which must not be changed.
    state: the optimizer's memory, tensors by name, to be read and written; empty at first, and part of every checkpoint.
    out: d values of g's dtype and device, for d^k; every one must be written.

Example:
    >>> import torch
    >>> def of_signs(g: torch.Tensor, state: dict[str, torch.Tensor], out: torch.Tensor, *, scale: float = 1.0) -> None:
    ...     torch.sign(g, out=out).mul_(scale)
    >>> out = torch.empty(3)
    >>> of_signs(torch.tensor([-2.0, 0.0, 5.0]), {}, out, scale=0.5)
    >>> out
    tensor([-0.5000,  0.0000,  0.5000])
"""

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from byzdist.norms import norm
from byzdist.registry import Registry
from byzdist.rounds import Memory

OPTIMIZERS: Registry[Callable[..., None]] = Registry("server optimizer", "g", "state", "out")

Decay = Annotated[float, Ge(0), Lt(1)]


def _zeros(state: Memory, name: str, like: Tensor) -> Tensor:
    if name not in state:
        state[name] = torch.zeros_like(like)
    return state[name]


@OPTIMIZERS.register("sgd")
def sgd(g: Tensor, state: Memory, out: Tensor, *, momentum: Decay = 0.0) -> None:
    """Heavy ball: m^k = β m^{k-1} + g^k and d^k = m^k; with β = 0, d^k = g^k."""
    out.copy_(_zeros(state, "velocity", g).mul_(momentum).add_(g))


@OPTIMIZERS.register("nesterov")
def nesterov(g: Tensor, state: Memory, out: Tensor, *, momentum: Decay = 0.9) -> None:
    """Nesterov's momentum, as in torch: m^k = β m^{k-1} + g^k and d^k = g^k + β m^k."""
    velocity = _zeros(state, "velocity", g).mul_(momentum).add_(g)
    torch.add(g, velocity, alpha=momentum, out=out)


@OPTIMIZERS.register("normalized")
def normalized(g: Tensor, state: Memory, out: Tensor) -> None:
    """A step of length γ_k whatever the estimate: d^k = g^k / ‖g^k‖, and 0 for an estimate of exactly zero."""
    torch.div(g, norm(g) or 1.0, out=out)


@OPTIMIZERS.register("adam")
def adam(
    g: Tensor,
    state: Memory,
    out: Tensor,
    *,
    beta1: Decay = 0.9,
    beta2: Decay = 0.999,
    epsilon: Annotated[float, Gt(0)] = 1e-8,
) -> None:
    """Adam, as in torch: d^k = m̂ / (√v̂ + ε), with bias-corrected means m̂ of g and v̂ of g²."""
    mean = _zeros(state, "mean", g).mul_(beta1).add_(g, alpha=1 - beta1)
    square = _zeros(state, "square", g).mul_(beta2).addcmul_(g, g, value=1 - beta2)
    steps = state.setdefault("steps", torch.zeros(1, dtype=torch.float64)).add_(1).item()
    torch.sqrt(square, out=out).div_((1 - beta2**steps) ** 0.5).add_(epsilon)
    torch.div(mean, out, out=out).div_(1 - beta1**steps)
