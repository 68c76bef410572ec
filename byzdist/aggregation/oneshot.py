"""Aggregation by one call. The process keeps the buffers and compiled loops that make a reused `Aggregator` fast."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, Literal

from byzdist.aggregation.arguments import OneOf, Steps
from byzdist.aggregation.engine import Aggregator
from byzdist.aggregation.inputs import as_given
from byzdist.aggregation.kernels.compiled import kept_compiler
from byzdist.aggregation.mixing import Generator
from byzdist.aggregation.vectors import Workspace
from byzdist.errors import ConfigError

MAX_IDLE_BYTES = 256 << 20  # of all idle workspaces together


class _Idle:
    """Workspaces that no call uses at the moment; there is one for each call of the largest number that ran at once."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._held: list[Workspace] = []

    @contextmanager
    def one(self) -> Iterator[Workspace]:
        """Lend a workspace to one call."""
        with self._lock:
            workspace = self._held.pop() if self._held else Workspace()
        try:
            yield workspace
        finally:
            with self._lock:
                workspace.shrink(MAX_IDLE_BYTES - sum(other.bytes() for other in self._held))
                self._held.append(workspace)


_idle = _Idle()
os.register_at_fork(after_in_child=_idle.forget)  # another thread of the parent may have held the lock


def free_workspaces() -> None:
    """Free the memory (at most 256 MiB) and the compiled loops that ``aggregate`` keeps for its next call."""
    _idle.forget()
    kept_compiler.cache_clear()


def aggregate(
    V: Any,
    rule: OneOf,
    *,
    pre: Steps = (),
    f: float = 0,
    generator: Generator = None,
    nonfinite: Literal["error", "drop"] = "error",
) -> Any:
    """Aggregate the rows of V once: the pre-aggregation steps in order, then the rule.

    From the third call with the same shape on, a call is as fast as one of a reused ``Aggregator(compile="auto")``: the process
    keeps buffers, at most 256 MiB (see ``free_workspaces``), and compiled loops. Several threads may call it at once. A rule
    that remembers starts afresh with each call.

    Args:
        V: n x d: a tensor on any device, a numpy array or a data frame, all floating point. Its rows may be strided and are never written
            to. Or a list of n inputs of one kind: tensors or arrays of one shape, lists of numbers, which count as float64, or
            state_dicts, mappings of names to tensors or arrays, with the same names and shapes. The floating entries of a
            state_dict form one vector, in the widest of their types. For each other entry, such as a counter, the result has
            the middle one of the inputs' values (the lower of the middle two), whatever the rule.
        rule: a registered name, {name: ..., parameters}, or a function (matrix, f) -> vector of your own.
        pre: steps, each given in the same way; or one step.
        f: the declared number of Byzantine rows, a whole number.
        generator: a torch.Generator or numpy Generator; only bucketing draws from it.
        nonfinite: "error", or "drop" to leave out rows with NaN or infinity and subtract their number from f.

    Returns:
        The result in new memory, in the form of one input: a tensor of V's dtype on its device; an array for arrays and data frames; a
        state_dict for state_dicts, with the first one's dtypes; a tensor for lists of numbers.

    Raises:
        ConfigError: for an unknown name, a wrong parameter, an f larger than the rule's maximum, rows that are not finite, a V
            that is not a matrix of numbers, or inputs that differ in kind, names or shapes.
    """
    with _idle.one() as workspace:
        matrix, restore = as_given(V, workspace)
        if matrix.device.type != "cpu":  # a GPU's stream may still use such a buffer; torch reuses that memory itself
            workspace = Workspace()
        aggregator = Aggregator(rule, pre, compile="kept", key="aggregate", workspace=workspace)
        max_f = aggregator.max_f(matrix.shape[0])
        if isinstance(f, bool) or not isinstance(f, Real) or not f == f // 1 or not 0 <= f <= max_f:
            raise ConfigError(
                f"f: {f!r} of {len(matrix)} rows; 0 to {max_f} are possible with these steps and this rule."
            )
        if nonfinite not in ("error", "drop"):
            raise ConfigError(f"nonfinite: error or drop (it is {nonfinite!r}).")
        result = aggregator(matrix, f=int(f), generator=generator, nonfinite=nonfinite)
        return restore(result.vector, [i for i in range(len(matrix)) if i not in result.dropped])
