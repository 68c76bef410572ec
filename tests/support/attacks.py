"""The tests' own hostile clients, which use all that an attacker is told: g, the clipping level, what the server reads.

A configuration names them as a user's own attacks: ``attack: {name: "tests.support.attacks:along"}``. Those of `HOSTILE` go as far as the
server lets them: to the clipping level in sampled rounds, and to 1e6 where nothing is clipped.
"""

from dataclasses import replace

import torch
from torch import Tensor

from byzdist.aggregation import Aggregator
from byzdist.attacks import Context, knows_estimate, knows_rule, omniscient
from byzdist.randomness import stream

FAR = 1e6
TIMES = [0.0, 0.5, 1.5, 4.0, 100.0]


def _push(now: Context, direction: Tensor) -> Tensor:
    """Send a vector of this direction that is exactly as long as the server lets it be."""
    reach = FAR if now.level is None else now.level
    length = float(now.delivered(direction).norm())
    message = direction * (reach / length) if length else direction
    is_deviation = now.full or now.difference
    return (
        message if is_deviation else message.add_(now.g)
    )  # for methods whose clients send estimates, clipped around g


def _fixed(now: Context) -> Tensor:
    direction = stream(now.round.seed, "attack").standard_normal(len(now.x))
    return now.x.new_tensor(direction)


@knows_estimate
def along(now: Context) -> Tensor:
    """Push along g: the level follows |g|, so that it grows."""
    return _push(now, now.g)


@knows_estimate
def against(now: Context) -> Tensor:
    """Push against g."""
    return _push(now, now.g.neg_())


@knows_estimate
def direction(now: Context) -> Tensor:
    """Push in one direction for the whole run."""
    return _push(now, _fixed(now))


def far(now: Context) -> Tensor:
    """Send 1e6 in every entry."""
    return now.honest.fill_(FAR)


@knows_estimate
def back(now: Context) -> Tensor:
    """Pull the model back to x^0 in every round."""
    pull = (now.x - now.start).div_(now.step_size)
    return pull.sub_(now.g) if now.difference else pull


@knows_estimate
def in_full(now: Context) -> Tensor:
    """Be honest in sampled rounds, and push against g in full ones."""
    return _push(now, now.g.neg_()) if now.full else now.honest


@knows_estimate
def in_sampled(now: Context) -> Tensor:
    """Be honest in full rounds, and push against g in sampled ones."""
    return now.honest if now.full else _push(now, now.g.neg_())


@omniscient
@knows_rule
@knows_estimate
def tuned(now: Context) -> Tensor:
    """Send mean - τ·std or -τ·mean of the honest messages, whichever moves the server's result farthest from their mean."""
    assert now.colluders is not None and now.rule is not None and now.pre is not None
    if not now.colluders:
        return _push(now, now.g.neg_())
    honest = torch.stack(list(now.colluders.values()))
    read = torch.stack([replace(now, client=client).delivered(row) for client, row in now.colluders.items()])
    around = 0.0 if now.full or now.difference else now.g
    server = Aggregator(now.rule, now.pre)
    mean, deviation = honest.mean(dim=0), honest.std(dim=0, correction=0)

    def harm(message: Tensor) -> float:
        rows = torch.cat([read, now.delivered(message).expand(now.accomplices, -1)]) - around
        result = server(rows, f=now.f, clip=now.level, generator=now.stream()).vector
        return float((result + around - mean).norm())

    tried = [mean - times * deviation for times in TIMES] + [-times * mean for times in TIMES]
    return max(tried, key=harm)


HOSTILE = [
    f"{__name__}:{attack.__name__}" for attack in (along, against, direction, far, back, in_full, in_sampled, tuned)
]
