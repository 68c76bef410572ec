"""The attack that clipping was made for."""

from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from byzdist.attacks.base import ATTACKS, Situation


@ATTACKS.register("shift_back", "shb")
def shift_back(now: Situation, *, scale: Annotated[float, Gt(0)] = 1.0) -> Tensor:
    """Pull the model back to x^0 whenever Byzantine clients are a strict majority of the cohort, else behave [BRPP section 5].

    As an estimate it sends a·(x^k - x^0), hence as a difference a·(x^k - x^0) - g^{k-1}, where a is ``scale``.
    """
    if 2 * now.accomplices <= len(now.cohort):
        return now.honest
    pull = now.honest.copy_(now.x).sub_(now.start).mul_(scale)
    if now.difference:
        pull.sub_(now.g)
    return pull
