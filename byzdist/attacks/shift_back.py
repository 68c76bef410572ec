"""The shift-back attack, the paper's argument for clipping."""

from typing import Annotated, Literal

from annotated_types import Gt
from torch import Tensor

from byzdist.attacks.base import ATTACKS, Context


@ATTACKS.register("shift_back", "shb")
def shift_back(now: Context, *, scale: Annotated[float, Gt(0)] | Literal["auto"] = 1.0) -> Tensor:
    """Pull the model back to x^0 whenever Byzantine clients are a strict majority of the cohort, else be honest [BRPP section 5].

    The estimate it sends is a·(x^k - x^0), so the difference is a·(x^k - x^0) - g^{k-1}. The paper's text has x^0 - x^k, the direction
    of the step; its code sends this estimate. The factor a is ``scale``: 1 as in the paper; with ``auto`` it is 1/γ, and without
    clipping a single such round returns the model to x^0.
    """
    if 2 * now.accomplices <= len(now.cohort):
        return now.honest
    pull = now.honest.copy_(now.x).sub_(now.start).mul_(1 / now.step_size if scale == "auto" else scale)
    if now.difference:
        pull.sub_(now.g)
    return pull
