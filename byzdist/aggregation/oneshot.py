"""Aggregation by one call. What makes a kept `Aggregator` fast, its buffers and its compiled loops, stays with the process."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, Literal

from byzdist.aggregation.engine import Aggregator
from byzdist.aggregation.inputs import as_given
from byzdist.aggregation.kernels.compiled import kept_compiler
from byzdist.aggregation.mixing import Generator
from byzdist.aggregation.vectors import Workspace
from byzdist.errors import ConfigError
from byzdist.registry import Named

MOST = 256 << 20  # bytes that idle workspaces take together


class _Idle:
    """Workspaces that no call uses at the moment: as many as there were calls at once."""

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
                workspace.shrink(MOST - sum(other.bytes() for other in self._held))
                self._held.append(workspace)


_idle = _Idle()
os.register_at_fork(after_in_child=_idle.forget)  # a thread of the parent's may have held the lock


def free_workspaces() -> None:
    """Give back the memory (at most 256 MiB) and forget the loops that ``aggregate`` keeps for its next call."""
    _idle.forget()
    kept_compiler.cache_clear()


def aggregate(
    V: Any,
    rule: Named,
    *,
    pre: Sequence[Named] = (),
    f: float = 0,
    generator: Generator = None,
    nonfinite: Literal["error", "drop"] = "error",
) -> Any:
    """Aggregate the rows of V once: the pre-aggregation steps in order, then the rule.

    Calls with the same shape are as fast as those of a kept ``Aggregator(compile="auto")`` from the third on: the process keeps
    buffers, at most 256 MiB (see ``free_workspaces``), and compiled loops. Threads may call at once. A rule that remembers
    begins anew with each call.

    Args:
        V: n x d: a tensor on any device or a numpy array, both floating point, whose rows may be strided and are never written
            to. Or a list of n inputs: tensors or arrays of one shape, lists of numbers, which count as float64, or state_dicts,
            mappings of names to tensors or arrays, with the same names and shapes. A state_dict is one vector, in the widest of
            its floating types; of its other entries, such as counters, each is the middle one of those given (of an even number
            the lower), whatever the rule.
        rule: a registered name, or {name: ..., parameters}.
        pre: steps, each given likewise.
        f: the declared number of Byzantine rows, a whole number.
        generator: a torch.Generator or numpy Generator; only bucketing draws.
        nonfinite: "error", or "drop" to leave rows with NaN or infinity out and count them against f.

    Returns:
        The result in new memory, in the form of one input: a tensor of V's dtype and on its device, an array for arrays, a
        state_dict for state_dicts, each entry of the first one's dtype; a tensor for lists of numbers.

    Raises:
        ConfigError: an unknown name, a wrong parameter, an f larger than the rule's maximum, rows that are not finite, a V
            that is not a matrix of numbers, or inputs that differ in kind, names or shapes.
    """
    with _idle.one() as workspace:
        matrix, restore = as_given(V, workspace)
        if matrix.device.type != "cpu":  # a stream may still use such buffers; torch keeps that memory itself
            workspace = Workspace()
        aggregator = Aggregator(rule, pre, compile="kept", key="aggregate", workspace=workspace)
        most = aggregator.max_f(matrix.shape[0])
        if isinstance(f, bool) or not isinstance(f, Real) or not f == f // 1 or not 0 <= f <= most:
            raise ConfigError(
                f"f: {f!r} of {len(matrix)} rows; 0 to {most} are possible with these steps and this rule."
            )
        if nonfinite not in ("error", "drop"):
            raise ConfigError(f"nonfinite: error or drop (it is {nonfinite!r}).")
        result = aggregator(matrix, f=int(f), generator=generator, nonfinite=nonfinite)
        return restore(result.vector, [i for i in range(len(matrix)) if i not in result.dropped])
