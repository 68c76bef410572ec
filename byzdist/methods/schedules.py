"""Step sizes that change from round to round: each schedule gives γ_k > 0, the step from x^k to x^{k+1}, for k = 0, 1, ...

A schedule has its own lengths and does not know the number of rounds of the run: a run that is resumed with more rounds
continues with the same steps. It is called with k alone, repeatedly and in any order, so it must not count its calls.

Args:
    round_: k, from 0 on.

Returns:
    γ_k, a finite number above 0; any other ends the run with a RunError (see `Method.step`).

Example:
    >>> def halving(round_: int, *, value: float, every: int) -> float:
    ...     return value * 0.5 ** (round_ // every)
    >>> [halving(k, value=0.8, every=2) for k in range(5)]
    [0.8, 0.8, 0.4, 0.4, 0.2]
"""

import math
import sys
from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge, Gt, Le

from byzdist.registry import Registry

SCHEDULES: Registry[Callable[..., float]] = Registry("schedule", "round")

Step = Annotated[float, Gt(0)]
Rounds = Annotated[int, Ge(1)]


@SCHEDULES.register("constant")
def constant(round_: int, *, value: Step) -> float:
    """The same step in every round: γ_k = value."""
    return value


@SCHEDULES.register("warmup")
def warmup(round_: int, *, value: Step, rounds: Rounds) -> float:
    """Rises to ``value`` within ``rounds`` rounds: γ_k = value · min(1, (k+1)/rounds)."""
    return value * min(1.0, (round_ + 1) / rounds)


@SCHEDULES.register("cosine")
def cosine(round_: int, *, value: Step, last: Step, rounds: Rounds) -> float:
    """Half a cosine from ``value`` to ``last``: γ_k = last + (value - last)(1 + cos(π min(1, k/rounds)))/2."""
    return last + (value - last) * (1 + math.cos(math.pi * min(1.0, round_ / rounds))) / 2


@SCHEDULES.register("linear")
def linear(round_: int, *, value: Step, last: Step, rounds: Rounds) -> float:
    """A straight line from ``value`` to ``last``: γ_k = value + (last - value) min(1, k/rounds)."""
    return value + (last - value) * min(1.0, round_ / rounds)


@SCHEDULES.register("power")
def power(round_: int, *, value: Step, exponent: Annotated[float, Gt(0)] = 0.5) -> float:
    """Shrinks like a power of the round: γ_k = value / (k+1)^exponent."""
    return max(value * math.pow(round_ + 1, -exponent), sys.float_info.min)  # because 0 would not be a step


@SCHEDULES.register("step")
def step(round_: int, *, value: Step, factor: Annotated[float, Gt(0), Le(1)], every: Rounds) -> float:
    """Shrinks by ``factor`` after every ``every`` rounds: γ_k = value · factor^⌊k/every⌋."""
    return max(value * factor ** (round_ // every), sys.float_info.min)  # because 0 would not be a step
