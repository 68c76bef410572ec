"""The interfaces of a rule and of a pre-aggregation step, the facts known about them, and their registries."""

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
    """What theory says about a rule for n vectors, f of which may be arbitrary.

    Attributes:
        max_f: (n, the rule's parameters) -> the largest f that the rule's formula accepts for n vectors.
        max_byzantine: (n, the rule's parameters) -> how many of n vectors may be arbitrary such that the result's distance from
            the others' mean is always at most a constant times their spread. None: the same as ``max_f``.
        breakdown: the share of hostile vectors that the rule withstands, in words.
        robustness: its (delta, c) or (f, kappa) constants if they are known, else "".
        norm_bound: F(n, f) with ‖rule(v_1..v_n)‖ <= F max ‖v_i‖.
        norm_formula: the same in words.
        kappa: (n, f, the rule's parameters; for a "wrapper" also ``inner``, the kappa of its rule) -> the constant of
            (f, kappa)-robustness: for every n - f of the vectors, with mean m, ‖rule(v_1..v_n) - m‖² is at most kappa times their
            mean ‖v_i - m‖². None: not known.
        cost: the arithmetic besides reading the n x d numbers.
        use: when to choose it, in a sentence or two.
        formula: the result z of the vectors v_1..v_n in LaTeX, for the documentation site.
    """

    max_f: Callable[..., int]
    breakdown: str
    robustness: str
    norm_bound: Callable[[int, int], float] = lambda n, f: 1.0
    norm_formula: str = "1"
    cost: str = "O(n^2 d) for the inner products"
    max_byzantine: Callable[..., int] | None = None
    use: str = ""
    formula: str = ""
    kappa: Callable[..., float] | None = None


def minority(n: int, **_: Any) -> int:
    """Return the largest f with 2f < n."""
    return max(0, (n - 1) // 2)


def no_byzantine(n: int, **_: Any) -> int:
    """Return 0: a single hostile vector may move the result by any amount, or by more than the others differ."""
    return 0


class Rule:
    """An aggregation rule: its function, the kind of its input, and the facts about it.

    The function is called for m >= 2 vectors of d finite values; f is at most ``facts.max_f(m)``. An exception that it raises
    ends the run. A function that is not a Rule counts as a "plain" one that tolerates any minority.

    Args:
        function: depends on the kind.
            "span": (points, f) -> m weights, float64; their sum is at most 1, and the result is the weighted sum of the points.
            "columns": (columns, f) -> one row; it is called for each tile of the columns.
            "wrapper": (distances, f, *, rule) -> m weights, float64; it gets each point's distance to the result of an inner rule.
            "plain": (matrix, f) -> a vector [d]; it gets a tensor m x d that may be the caller's memory, so it must not write to it.
        kind: see ``function``.
        facts: what theory says about it.
        select: for "columns", (points, f) -> a matrix that mixes the points first.
        products: whether it uses inner products or distances; norms are then computed from those.
        remembers: whether a "span" or "plain" function gets a third argument, a dict of tensors that it keeps from call to call
            and that is part of a run's checkpoints.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from byzdist.aggregation.geometry import Geometry
        >>> from byzdist.aggregation.points import Points
        >>> from byzdist.aggregation.rules import Facts, Rule, minority, uniform
        >>> from byzdist.aggregation.vectors import Vectors, Workspace
        >>> rows = torch.tensor([[900.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
        >>> def shortest(points, f):
        ...     "The mean of all but the f longest."
        ...     return uniform(points.size, np.argsort(points.norms())[: points.size - f])
        >>> Rule(shortest, "span", Facts(minority, "1/2", ""))(Points(Geometry(Vectors(rows, Workspace()))), 1)
        array([0. , 0.5, 0.5])
        >>> def middle(matrix, f):
        ...     return matrix.median(0).values
        >>> Rule(middle, "plain", Facts(minority, "1/2", ""))(rows, 1)
        tensor([3., 0.])
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
    """A pre-aggregation step: its function, and how many vectors it makes from n.

    Args:
        function: (points, f, generator) -> points; random draws come from the generator, torch's or numpy's (None: a fresh one).
        size: (n, the step's parameters) -> how many vectors it makes from n.
        products: whether it uses inner products or distances.
        mixes: whether the norms of its result follow from inner products, although the step itself does not use them.
        kappa: (n, f, the kappa of what follows) -> that of both; None: not known.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from byzdist.aggregation.geometry import Geometry
        >>> from byzdist.aggregation.points import Points
        >>> from byzdist.aggregation.rules import PreStep
        >>> from byzdist.aggregation.vectors import Vectors, Workspace
        >>> def damped(points, f, generator):
        ...     "Multiply every vector by 1/(1 + f)."
        ...     return points.scaled(np.full(points.size, 1 / (1 + f)))
        >>> points = PreStep(damped)(Points(Geometry(Vectors(torch.tensor([[4.0, 0.0], [0.0, 6.0]]), Workspace()))), 1, None)
        >>> points.norms() * points.unit
        array([2., 3.])
    """

    def __init__(
        self,
        function: "Callable[..., Points]",
        size: Callable[..., int] = lambda n, **_: n,
        products: bool = False,
        mixes: bool = False,
        kappa: Callable[[int, int, float], float] | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function, self.size, self.products, self.mixes, self.kappa = function, size, products, mixes, kappa

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
    kappa: Callable[[int, int, float], float] | None = None,
) -> "Callable[[Callable[..., Points]], PreStep]":
    """Register a function (points, f, generator) -> points as a pre-aggregation step."""
    return lambda function: PRE.register(name, *aliases)(PreStep(function, size, products, mixes, kappa))


def uniform(n: int, chosen: Sequence[int] | NDArray[Any]) -> Floats:
    """Return the weights, n values, of the mean of the chosen points."""
    weights = np.zeros(n)
    weights[chosen] = 1.0 / len(chosen)
    return weights
