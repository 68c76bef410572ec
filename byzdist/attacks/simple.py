"""Attacks that need only the client's own message."""

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from byzdist.attacks.base import ATTACKS, Context, on_labels


@ATTACKS.register("none", "no_attack", "honest")
def none(now: Context) -> Tensor:
    """Byzantine clients behave honestly."""
    return now.honest


Form = Literal["estimate", "difference"]
"""What an attack reverses if a difference h is asked for: the estimate g + h that follows from it, or the difference alone."""


@ATTACKS.register("bit_flip", "sign_flip", "sign_flipping")
def bit_flip(now: Context, *, form: Form = "estimate") -> Tensor:
    """Flip the sign of the client's estimate: send -h, or -(g + h) - g if a difference h from g is asked for.

    ``form: difference`` sends -h in that case as well, which merely slows the estimate down.
    """
    flipped = now.honest.neg_()
    return flipped.sub_(now.g, alpha=2) if now.difference and form == "estimate" else flipped


@ATTACKS.register("label_flip", "label_flipping")
@on_labels
def label_flip(now: Context) -> Tensor:
    """Send what an honest client with flipped labels, y -> L-1-y, would send."""
    return now.honest


@ATTACKS.register("gaussian", "gaussian_noise", "noise")
def gaussian(now: Context, *, sigma: Annotated[float, Gt(0)] = 1.0) -> Tensor:
    """Send noise σ·N(0, I)."""
    noise = now.stream().standard_normal(len(now.honest))
    return now.honest.copy_(torch.from_numpy(noise)).mul_(sigma)


@ATTACKS.register("zero")
def zero(now: Context) -> Tensor:
    """Send zeros."""
    return now.honest.zero_()


@ATTACKS.register("inf")
def inf(now: Context) -> Tensor:
    """Send infinities."""
    return now.honest.fill_(torch.inf)


@ATTACKS.register("nan")
def nan(now: Context) -> Tensor:
    """Send NaNs."""
    return now.honest.fill_(torch.nan)
