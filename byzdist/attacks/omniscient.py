"""Attacks that see the honest messages of their cohort."""

from statistics import NormalDist
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from byzdist.attacks.base import ATTACKS, Situation, omniscient


def _mean(now: Situation) -> Tensor:
    """Average the cohort's honest messages; a cohort without honest clients falls back on the attacker's own."""
    assert now.colluders is not None, "an omniscient attack runs with the collusion channel"
    total = torch.zeros_like(now.honest)
    for vector in now.colluders.values():
        total.add_(vector)
    return total.div_(len(now.colluders)) if now.colluders else total.copy_(now.honest)


@ATTACKS.register("ipm", "inner_product_manipulation", "fall_of_empires", "foe")
@omniscient
def ipm(now: Situation, *, epsilon: Annotated[float, Gt(0)] = 0.1) -> Tensor:
    """Send -ε times the mean of the cohort's honest messages: inner-product manipulation (Xie et al., UAI 2019)."""
    return _mean(now).mul_(-epsilon)


@ATTACKS.register("alie", "a_little_is_enough", "little_is_enough", "lie")
@omniscient
def alie(now: Situation, *, z: float | None = None) -> Tensor:
    """Send mean - z·std of the cohort's honest messages: A Little Is Enough (Baruch et al., NeurIPS 2019).

    Unless set, z is the normal quantile of (n_c - s) / (n_c - b_c), with s = floor(n_c/2 + 1), for b_c Byzantine of n_c in the
    cohort, and 0 where that is no probability.
    """
    mean = _mean(now)
    assert now.colluders is not None
    variance = torch.zeros_like(mean)
    for vector in now.colluders.values():
        variance.addcmul_(vector - mean, vector - mean)
    std = variance.div_(max(1, len(now.colluders))).sqrt_()
    return mean.sub_(std, alpha=alie_z(len(now.cohort), now.accomplices) if z is None else z)


def alie_z(cohort: int, byzantine: int) -> float:
    """Return the largest z that hides among a majority; see `alie`."""
    honest = cohort - byzantine
    probability = (cohort - (cohort // 2 + 1)) / honest if honest else 0.0
    return NormalDist().inv_cdf(probability) if 0 < probability < 1 else 0.0


@ATTACKS.register("mimic")
@omniscient
def mimic(now: Situation, *, target: Annotated[int, Ge(0)] = 0) -> Tensor:
    """Repeat the message of one honest client, ``target`` (Karimireddy et al., ICLR 2022).

    Where the target is not in the cohort, the honest client of the cohort with the next higher id stands in, cyclically.
    """
    assert now.colluders is not None
    if not now.colluders:
        return now.honest
    chosen = min(now.colluders, key=lambda client: (client < target, client))
    return now.honest.copy_(now.colluders[chosen])
