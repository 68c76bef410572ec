"""What a rule and a pre-aggregation step are, what is known about them, and the two registries that hold them."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from byzdist.aggregation.columns import Columns, Row
from byzdist.aggregation.points import Points
from byzdist.aggregation.types import Floats
from byzdist.registry import Registry


@dataclass(frozen=True)
class Facts:
    """What theory knows of a rule that sees n vectors, f of which may be anything.

    Attributes:
        max_f: the largest f that the rule's formula accepts for n vectors; given its parameters too.
        max_byzantine: how many of n vectors may be anything and the result stays within a constant times the spread of the
            others from their mean, whatever those are; given the parameters too. None: as many as ``max_f`` says.
        breakdown: the share of hostile vectors that it withstands, in words.
        robustness: its (delta, c) or (f, kappa) constants where they are known, else "".
        norm_bound: F(n, f) with ‖rule(v_1..v_n)‖ <= F max ‖v_i‖.
        norm_formula: the same in words.
        cost: arithmetic beyond reading the n x d numbers.
    """

    max_f: Callable[..., int]
    breakdown: str
    robustness: str
    norm_bound: Callable[[int, int], float] = lambda n, f: 1.0
    norm_formula: str = "1"
    cost: str = "O(n^2 d) for the inner products"
    max_byzantine: Callable[..., int] | None = None


def minority(n: int, **_: Any) -> int:
    """Return the largest f with 2f < n."""
    return max(0, (n - 1) // 2)


def no_byzantine(n: int, **_: Any) -> int:
    """Return 0: one hostile vector may move the result by any amount, or by more than the others differ."""
    return 0


class Rule:
    """A registered aggregation rule: its function, the kind of its input, and the facts about it.

    Kinds: "span" functions take (points, f) and return one weight a point; "columns" functions take (columns, f) and
    return one row, and may ``select`` points first, by a matrix that mixes them; "wrapper" functions take (each point's
    distance to an inner rule's result, f) and return weights; "plain" ones, a user's own, take (matrix, f) and return a
    vector, and must not write to the matrix: it may be the caller's own memory. ``products``: it asks for inner products
    or distances, so lengths are best read off those. ``remembers``: "span" and "plain" functions get a third argument, a dict of
    tensors that is theirs from call to call and part of a run's checkpoints.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        kind: Literal["span", "columns", "wrapper", "plain"],
        facts: Facts,
        select: "Callable[[Points, int], Any] | None" = None,
        products: bool = False,
        remembers: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function, self.kind, self.facts, self.select = function, kind, facts, select
        assert not remembers or kind in ("span", "plain"), (
            "other kinds are called for a part of the columns, or by another rule"
        )
        self.remembers = remembers
        self.products = products or select is not None

    def __call__(self, *args: Any, **parameters: Any) -> Any:
        """Apply the rule's own function."""
        return self.function(*args, **parameters)


class PreStep:
    """A registered pre-aggregation step: its function (points, f, generator) -> points, and how many it leaves of n.

    ``products``: it asks for inner products or distances. ``mixes``: it does not, but lengths after it follow from them.
    """

    def __init__(
        self,
        function: "Callable[..., Points]",
        size: Callable[..., int] = lambda n, **_: n,
        products: bool = False,
        mixes: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function, self.size, self.products, self.mixes = function, size, products, mixes

    def __call__(self, *args: Any, **parameters: Any) -> "Points":
        """Apply the step's own function."""
        return self.function(*args, **parameters)


RULES: Registry[Rule] = Registry("rule", "vectors", "f")
PRE: Registry[PreStep] = Registry("pre-aggregation step", "points", "f", "generator")


def span_rule(
    name: str, facts: Facts, products: bool = True, aliases: Sequence[str] = ()
) -> "Callable[[Callable[..., Floats]], Rule]":
    """Register a function (points, f) -> weights as a rule."""
    return lambda function: RULES.register(name, *aliases)(Rule(function, "span", facts, products=products))


def column_rule(
    name: str,
    facts: Facts,
    select: "Callable[[Points, int], Any] | None" = None,
    aliases: Sequence[str] = (),
) -> "Callable[[Callable[[Columns, int], Row]], Rule]":
    """Register a function (columns, f) -> row as a rule."""
    return lambda function: RULES.register(name, *aliases)(Rule(function, "columns", facts, select))


def wrapper_rule(name: str, facts: Facts) -> "Callable[[Callable[..., Floats]], Rule]":
    """Register a function (distances, f, *, rule) -> weights as a rule around another one."""
    return lambda function: RULES.register(name)(Rule(function, "wrapper", facts))


def pre_step(
    name: str,
    size: Callable[..., int] = lambda n, **_: n,
    products: bool = False,
    mixes: bool = False,
    aliases: Sequence[str] = (),
) -> "Callable[[Callable[..., Points]], PreStep]":
    """Register a function (points, f, generator) -> points as a pre-aggregation step."""
    return lambda function: PRE.register(name, *aliases)(PreStep(function, size, products, mixes))


def uniform(n: int, chosen: Sequence[int] | NDArray[Any]) -> Floats:
    """Return the weights of the mean of the chosen ones of n points."""
    weights = np.zeros(n)
    weights[chosen] = 1.0 / len(chosen)
    return weights
