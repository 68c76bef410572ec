"""Attacks that see the honest messages of their cohort."""

from statistics import NormalDist
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from byzdist.attacks.base import ATTACKS, Context, omniscient
from byzdist.attacks.simple import Form
from byzdist.errors import ConfigError
from byzdist.registry import RunFacts, checks_run


def _mean(now: Context) -> Tensor:
    """Average the cohort's honest messages; if there are none, return the attacker's own honest message."""
    assert now.colluders is not None, "an omniscient attack runs with the collusion channel"
    total = torch.zeros_like(now.honest)
    for vector in now.colluders.values():
        total.add_(vector)
    return total.div_(len(now.colluders)) if now.colluders else total.copy_(now.honest)


@ATTACKS.register("ipm", "inner_product_manipulation", "fall_of_empires", "foe")
@omniscient
def ipm(now: Context, *, epsilon: Annotated[float, Gt(0)] = 0.1, form: Form = "estimate") -> Tensor:
    """Send -ε times the mean of the cohort's honest estimates: inner-product manipulation (Xie et al., UAI 2019).

    If differences from g are asked for, and m is their mean, the message is -ε(g + m) - g; with ``form: difference`` it is -εm.
    """
    message = _mean(now).mul_(-epsilon)
    return message.sub_(now.g, alpha=1 + epsilon) if now.difference and form == "estimate" else message


@ATTACKS.register("alie", "a_little_is_enough", "little_is_enough", "lie")
@omniscient
def alie(now: Context, *, z: float | None = None, ddof: Literal[0, 1] = 0) -> Tensor:
    """Send mean - z·std of the cohort's honest messages: A Little Is Enough (Baruch et al., NeurIPS 2019).

    By default z follows from the numbers of all clients, see `alie_z`: from those of a small cohort it would be 0, and the message
    would be the honest mean. ``ddof`` is subtracted from the number of honest messages in the standard deviation; it is 1 in the code of
    [BRPP].
    """
    mean = _mean(now)
    assert now.colluders is not None
    variance = torch.zeros_like(mean)
    for vector in now.colluders.values():
        variance.addcmul_(vector - mean, vector - mean)
    std = variance.div_(max(1, len(now.colluders) - ddof)).sqrt_()
    return mean.sub_(std, alpha=alie_z(now.clients, len(now.byzantine)) if z is None else z)


def alie_z(clients: int, byzantine: int) -> float:
    """Return the largest z at which B of n clients stay within a majority: the normal quantile of (n - floor(n/2 + 1)) / (n - B), or 0."""
    probability = (clients - (clients // 2 + 1)) / (clients - byzantine)
    return max(0.0, NormalDist().inv_cdf(probability)) if probability > 0 else 0.0


def _copies_an_honest_client(run: RunFacts, key: str, *, target: int | str) -> None:
    if target != "worst" and target not in run.honest:
        raise ConfigError(
            f"{key}.target: client {target} is not one of the honest clients 0..{len(run.honest) - 1}; or take 'worst'."
        )


@ATTACKS.register("mimic")
@omniscient
@checks_run(_copies_an_honest_client)
def mimic(now: Context, *, target: Annotated[int, Ge(0)] | Literal["worst"] = "worst") -> Tensor:
    """Repeat the message of one honest client, the target, so that it outweighs the others (Karimireddy et al., ICLR 2022).

    With ``target: worst`` it is, in each round, the client farthest out along the direction in which the cohort's honest messages
    differ most; the paper's attackers find such a client in the first rounds and then keep to it. Otherwise ``target`` is a client's
    id; if that client is not in the cohort, the honest client with the next higher id, cyclically, replaces it.
    """
    assert now.colluders is not None
    if not now.colluders:
        return now.honest
    if target == "worst":
        chosen = _farthest(now.colluders)
    else:
        chosen = min(now.colluders, key=lambda client: (client < target, client))
    return now.honest.copy_(now.colluders[chosen])


def _farthest(vectors: dict[int, Tensor]) -> int:
    """Return the client whose vector lies farthest from the mean along the first principal direction, the lowest id in a tie.

    If UΣVᵀ is the singular value decomposition of the centered vectors, those distances are σ_1|U_i1|, and the columns of U are
    the eigenvectors of the Gram matrix.
    """
    rows = torch.stack(list(vectors.values())).double()
    rows -= rows.mean(dim=0)
    distances = torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -1].abs()
    level = distances >= distances.max() * (1 - 1e-6)  # ties up to rounding, as between any two vectors
    return list(vectors)[int(level.nonzero()[0])]
