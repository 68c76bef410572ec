"""The aggregator: pre-aggregation steps, then the rule; it usually reads the data at most twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from byzdist.aggregation import gram
from byzdist.aggregation.arguments import OneOf, Steps, check, check_result, listed, piece
from byzdist.aggregation.columns import LARGEST_NETWORK, Columns
from byzdist.aggregation.geometry import Geometry
from byzdist.aggregation.kernels import native
from byzdist.aggregation.kernels.compiled import NO_LOOPS, Compiler, kept_compiler
from byzdist.aggregation.mixing import Generator
from byzdist.aggregation.points import Points
from byzdist.aggregation.rules import PRE, RULES, Facts, PreStep, Rule, minority
from byzdist.aggregation.span import clip_factors
from byzdist.aggregation.types import Floats
from byzdist.aggregation.vectors import NonfiniteRows, Vectors, Workspace, as_array, as_tensor
from byzdist.errors import ConfigError
from byzdist.rounds import Memory

Compile: TypeAlias = bool | Literal["auto", "kept", "sums"]
_MANY = 1 << 18  # numbers; numpy takes about a millisecond for this many
_MANY_THERE = 1 << 27  # the same for a GPU's calls

_OWN = Facts(max_f=minority, breakdown="unknown: a user's own", robustness="", norm_bound=lambda n, f: float("nan"))


@dataclass(frozen=True)
class Aggregated:
    """The result of an aggregation.

    Attributes:
        vector: the result, d entries.
        clipped: how many rows the server clipped.
        f: the number of Byzantine rows that the rule worked with.
        dropped: the rows left out because they were not finite.
        weights: of the rows that were not dropped, each clipped, in the result; None for rules that do not make a weighted sum.
    """

    vector: Tensor
    clipped: int
    f: int
    dropped: tuple[int, ...] = ()
    weights: Floats | None = None


class Aggregator:
    """One rule with its pre-aggregation steps, made once and called every round; it keeps its buffers.

    Args:
        rule: a registered name, {name: ..., parameters}, a spec, or a `Rule` or function (matrix, f) -> vector of your own.
        pre: steps in the order in which they are applied, each given in the same way; or one step.
        compile: what runs as compiled loops.
            "sums": inner products, norms and weighted sums, if there is a C compiler (CC, else cc) and the matrix is large. Those
            loops are compiled once in a process, in some tenths of a second.
            "auto": also column rules, if compiling pays off within some hundred calls. They run several times faster, with the
            same bits. Compiling takes some tenths of a second for each number of rows; on a GPU, where torch.compile does it,
            ten seconds or more, so only matrices of 2^27 numbers or more are worth it.
            "kept": the same, but all such aggregators of the process share the loops, and each loop is compiled when it is
            needed for the third time.
            True: sums and column rules, whatever the size (on a GPU: column rules alone).
            False: nothing.
            Inner products in C differ from the others in the last digits; all else has the same bits with and without a compiler.
        key: the configuration key that an error names.
        workspace: the buffers to use; only one call may use them at a time. The aggregator makes new ones by default.

    Attributes:
        memory: what a rule that `remembers` keeps from call to call.
    """

    def __init__(
        self,
        rule: OneOf,
        pre: Steps = (),
        *,
        compile: Compile = "sums",
        key: str = "aggregation",
        workspace: Workspace | None = None,
    ) -> None:
        if compile not in get_args(get_args(Compile)[1]) and not isinstance(compile, bool):
            raise ConfigError(f"compile: must be true, false, 'auto', 'kept' or 'sums' (it is {compile!r}).")
        found, self._parameters = piece(RULES, rule, f"{key}.rule")
        self.rule = found if isinstance(found, Rule) else Rule(found, "plain", _OWN)
        self.pre: list[tuple[PreStep, Mapping[str, Any]]] = []
        for i, given in enumerate(listed(pre)):
            step, parameters = piece(PRE, given, f"{key}.pre[{i}]")
            self.pre.append((step if isinstance(step, PreStep) else PreStep(step), parameters))
        inner = self._parameters.get("rule") if self.rule.kind == "wrapper" else None
        self._inner = Aggregator(inner, compile=compile, key=f"{key}.rule") if inner is not None else None
        steps = any(step.products or step.mixes and i + 1 < len(self.pre) for i, (step, _) in enumerate(self.pre))
        self._products: bool = steps or self.rule.products or (self._inner is not None and self._inner._products)
        self._workspace = workspace or Workspace()
        self.memory: Memory = {}
        self._remembered = (self.memory,) if self.rule.remembers else ()
        self._compile = compile
        self._compiler: Compiler | None = None
        if compile is True or compile and native.is_possible():
            self._compiler = _kept(self.rule, self._parameters) if compile == "kept" else Compiler()

    def max_f(self, n: int) -> int:
        """Return the largest f that the steps and the rule accept for n rows."""
        found, n = max(0, n - 1), self.left(n)
        found = min(found, self.rule.facts.max_f(n, **self._parameters)) if n > 1 else 0
        return found if self._inner is None else min(found, self._inner.max_f(n))

    def max_byzantine(self, n: int) -> int:
        """Return the largest number of Byzantine rows among n that steps and rule tolerate; see the function ``max_byzantine``."""
        n = self.left(n)
        if n < 2:
            return 0
        facts = self.rule.facts
        tolerated = (facts.max_byzantine or facts.max_f)(n, **self._parameters)
        return tolerated if self._inner is None else min(tolerated, self._inner.max_byzantine(n))

    def norm_bound(self, n: int, f: int) -> float:
        """Return F with ‖result‖ <= F max ‖row‖, for n rows of which f (at most ``max_f(n)``) are declared Byzantine.

        Steps never increase the largest norm. So this is the rule's F for the number of vectors after the steps.
        """
        f, n = min(f, self.max_f(n)), self.left(n)
        return self.rule.facts.norm_bound(n, f) if n > 1 else 1.0

    def kappa(self, n: int, f: int) -> float | None:
        """Return the constant of (f, kappa)-robustness of steps and rule for n rows, f (at most ``max_f(n)``) of them Byzantine.

        None: it is not known; see `Facts`. Infinite: there is none.
        """
        inner = None if self._inner is None else self._inner.kappa(n, f)
        if self.rule.facts.kappa is None or (self._inner is not None and inner is None):
            return None
        found = self.rule.facts.kappa(n, f, **self._parameters, **({} if inner is None else {"inner": inner}))
        for step, _ in reversed(self.pre):
            if step.kappa is None:
                return None
            found = step.kappa(n, f, found)
        return found

    def left(self, n: int) -> int:
        """Return how many vectors the steps make from n rows."""
        for step, parameters in self.pre:
            n = step.size(n, **parameters)
        return n

    def __call__(
        self,
        V: Tensor,
        *,
        f: int = 0,
        clip: float | None = None,
        generator: Generator = None,
        out: Tensor | None = None,
        nonfinite: Literal["error", "drop", "trust"] = "trust",
    ) -> Aggregated:
        """Aggregate the rows of V (n x d; any device and floating type; rows may be strided; never written to).

        Args:
            V: the vectors, n >= 1 rows.
            f: how many rows may be Byzantine; the value used is at most ``max_f(n)``, and is returned.
            clip: the server's threshold, to which each row is clipped before all steps.
            generator: for the random draws of the steps, such as bucketing's permutation.
            out: memory for the result, d entries; a new tensor by default. After an error its content is undefined.
            nonfinite: what to do with rows that hold NaN or infinity: raise an "error", "drop" them (each is subtracted from f),
                or "trust" the caller to have removed them.

        Raises:
            ConfigError: for arguments of another form, and for rows that are not finite, unless some are left after a drop.
        """
        check(V, clip, out)
        try:
            with np.errstate(invalid="ignore"):
                return self._aggregate(V, f, clip, generator, out, finite=nonfinite == "trust")
        except NonfiniteRows as found:
            dropped = found.rows
        if len(dropped) == len(V):
            raise ConfigError(f"V: all {len(V)} rows hold NaN or infinity; none is left to aggregate.")
        if nonfinite == "error":
            raise ConfigError(f"V: rows {list(dropped)} hold NaN or infinity; remove them, or pass nonfinite='drop'.")
        return self._aggregate(V, f, clip, generator, out, dropped)

    def _aggregate(
        self,
        V: Tensor,
        f: int,
        clip: float | None,
        generator: Generator,
        out: Tensor | None,
        dropped: tuple[int, ...] = (),
        finite: bool = True,
    ) -> Aggregated:
        """Aggregate the rows that were not dropped.

        Raises:
            NonfiniteRows: if some are not finite, unless ``finite`` says that they are. Nothing has been drawn or remembered then.
        """
        rows = [i for i in range(len(V)) if i not in dropped] if dropped else None
        compiler = self._compiler_for(V.numel(), V.device)
        loops = NO_LOOPS if compiler is None else compiler.sums(V, self._products)
        vectors = Vectors(V, self._workspace, rows, loops, finite)
        f = min(max(0, f - len(dropped)), self.max_f(vectors.n))
        points, clipped, factors = Points(Geometry(vectors, self._products)), 0, np.ones(vectors.n)
        # A separate pass that looks for NaN and infinity takes as long as a rule. Most rules make a pass that finds them anyway.
        if not finite and self._products and vectors.n > 1:
            points.norms()
        elif self.pre or self._remembered or self.rule.kind in ("plain", "wrapper"):
            vectors.check()
        if clip is not None:
            norms = points.norms()
            factors = clip_factors(norms, clip / points.unit)
            clipped = int(np.count_nonzero(factors < 1.0))
            if clipped:
                points = points.scaled(factors)
        for step, parameters in self.pre:
            points = step(points, f, generator, **parameters)
        if out is None:
            out = torch.empty(V.shape[1], dtype=V.dtype, device=V.device)
        weights = self._apply(points, f, out)
        vectors.check()
        if points.unit != 1.0:
            limit = torch.finfo(out.dtype).max
            out.mul_(points.unit).clamp_(-limit, limit)
        if weights is not None and clipped:
            weights = np.divide(weights, factors, out=np.zeros_like(weights), where=factors > 0.0)
        return Aggregated(out, clipped, f, dropped, weights)

    def _apply(self, points: Points, f: int, out: Tensor) -> Floats | None:
        """Write the rule's result for the points to ``out``; return the weights of the rows in it, if it is a weighted sum of them."""
        rule = self.rule
        if points.size == 1:
            return _weigh(points, np.ones(1), out)
        if rule.kind == "span":
            return _weigh(points, rule(points, f, *self._remembered, **self._parameters), out)
        if rule.kind == "wrapper":
            assert self._inner is not None
            distances = self._inner._distances(points, f, out)
            return _weigh(points, rule(distances, f, **self._parameters), out)
        if rule.kind == "plain":
            whole = points.vectors.tile(0, points.vectors.d)
            matrix = as_tensor(whole if points.mix is None else points.vectors.mixed(points.mix, whole))
            result = rule(matrix, f, *self._remembered, **self._parameters)
            out.copy_(check_result(result, len(out), getattr(rule, "__name__", "the rule")))
            return None
        if rule.select is not None:
            points = points.mixed(rule.select(points, f))
        self._columns(points, f, out)
        return None

    def _distances(self, points: Points, f: int, scratch: Tensor) -> Floats:
        """Return the distance of each point to the rule's result; ``scratch`` is memory for that result if it must be computed."""
        if self.rule.kind == "span":
            return points.distances_to(self.rule(points, f, *self._remembered, **self._parameters))
        self._apply(points, f, scratch)
        distances = gram.distances_to(points.vectors, points.mix, scratch)
        if not np.isfinite(distances).all() and points.vectors.tame():
            return self._distances(points, f, scratch)
        return distances

    def _columns(self, points: Points, f: int, out: Tensor) -> None:
        vectors, m = points.vectors, points.size
        if m <= LARGEST_NETWORK and self._fused(points, f, out):
            return
        vectors.check()
        direct, mixed = out.dtype == vectors.dtype and out.is_contiguous(), points.mix is not None
        target = as_array(out) if direct else out

        width = vectors.width(16384 if mixed else 32768)
        if m > LARGEST_NETWORK and vectors.lib is np:
            width = max(16, min(vectors.d, (1 << 20) // m))
        for start, stop, tile in vectors.tiles(width):
            if mixed:
                tile = vectors.mixed(points.mix, tile)
            spare = vectors.buffer("spare", m + 4, stop - start)
            with np.errstate(over="ignore"):  # `Columns.mean` handles overflows
                row = self.rule(Columns(tile, spare, writable=mixed, lib=vectors.lib), f, **self._parameters)
                # adding zero turns -0 into 0, because which of the two zeros a comparison keeps depends on the order of the rows
                if direct:
                    vectors.lib.add(row, 0.0, out=target[start:stop])
                else:
                    out[start:stop] = as_tensor(row + 0.0)

    def _compiler_for(self, numbers: int, device: torch.device) -> Compiler | None:
        """Return the compiler for a matrix of this many numbers; None if some hundred calls would not make up for the compile time."""
        many = _MANY if device.type == "cpu" else _MANY_THERE
        return self._compiler if self._compile is True or numbers >= many else None

    def _fused(self, points: Points, f: int, out: Tensor) -> bool:
        """Write a column rule's result by a compiled loop; return False if there is none."""
        vectors = points.vectors
        compiler, finite = self._compiler_for(points.size * vectors.d, vectors.device), points.mix is None
        if compiler is None or self._compile == "sums":
            return False
        in_place, direct = points.mix is None and vectors.is_plain, out.dtype == vectors.dtype and out.is_contiguous()
        for start, stop, tile in vectors.tiles(vectors.d if in_place else vectors.width(1 << 20)):
            if points.mix is not None:
                tile = vectors.mixed(points.mix, tile)
            row = out[start:stop] if direct else as_tensor(vectors.buffer("result", 1, stop - start)[0])
            ran = compiler.run(self.rule.function, as_tensor(tile), f, self._parameters, row)
            if not ran.done:
                return False
            finite = finite and ran.finite
            if not direct:
                out[start:stop] = row
        vectors.finite = vectors.finite or finite
        return True


def _kept(rule: Rule, parameters: Mapping[str, Any]) -> Compiler:
    """Return the compiler that the process keeps for a rule; a new one if the parameters cannot be hashed."""
    key = tuple(sorted((name, type(value), value) for name, value in parameters.items()))
    try:
        return kept_compiler(rule.function, key)
    except TypeError:
        return Compiler(after=2)


def _weigh(points: Points, weights: Floats, out: Tensor) -> Floats:
    mixed = np.ascontiguousarray(weights if points.mix is None else points.mix.T @ weights)
    points.vectors.weighted_sum(mixed, out)
    return mixed


def max_byzantine(rule: OneOf, pre: Steps, n: int) -> int:
    """Return the largest number of Byzantine rows among n that these steps and this rule tolerate in the worst case.

    With that many, declared as f, the distance of the result from the other rows' mean is at most a constant times the spread
    of those rows. With bucketing each hostile row may fall into a different group, so the rule has to tolerate that many among
    fewer groups. The other steps change neither number. A single row tolerates none.

    Args:
        rule: as for ``aggregate``. A user's own function is assumed to tolerate any minority; one that tolerates fewer must be
            registered with ``Facts`` that say so.
        pre: as for ``aggregate``.
        n: the number of rows (the replies that came, not the requests).

    Raises:
        ConfigError: for an unknown name or a wrong parameter, or an n that is not a whole number.
    """
    if not isinstance(n, Integral) or n < 0:
        raise ConfigError(f"n: a whole number of rows is needed (it is {n!r}).")
    return Aggregator(rule, pre).max_byzantine(n)
