"""The attack that clipping was made for."""

from typing import Annotated, Literal

from annotated_types import Gt
from torch import Tensor

from byzdist.attacks.base import ATTACKS, Context


@ATTACKS.register("shift_back", "shb")
def shift_back(now: Context, *, scale: Annotated[float, Gt(0)] | Literal["auto"] = 1.0) -> Tensor:
    """Pull the model back to x^0 whenever Byzantine clients are a strict majority of the cohort, else behave [BRPP section 5].

    As an estimate it sends a·(x^k - x^0), hence as a difference a·(x^k - x^0) - g^{k-1}, where a is ``scale``: 1 as in the paper, or
    ``auto``, 1/γ, with which one such round ends at x^0 where nothing is clipped.
    """
    if 2 * now.accomplices <= len(now.cohort):
        return now.honest
    pull = now.honest.copy_(now.x).sub_(now.start).mul_(1 / now.step_size if scale == "auto" else scale)
    if now.difference:
        pull.sub_(now.g)
    return pull
