"""Column rules as one fused loop, by torch.compile: each column is read once and all comparisons are in registers."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from byzdist.aggregation.columns import Columns, Row
from byzdist.aggregation.networks import selection_network


class TracedColumns(Columns):
    """The operations of ``Columns`` as expressions, for a tracer to see and a compiler to fuse, with the same bits."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows, (), writable=False, lib=torch)

    def ranks(self, labels: tuple[int, ...]) -> list[Row]:
        """Return the rows, those with the ranks that ``labels`` ask for in place (see ``selection_network``)."""
        rows = list(self._rows)
        for low, high, keep_low, keep_high in selection_network(labels):
            a, b = rows[low], rows[high]
            less = a < b  # a choice by it compiles to two instructions, torch.minimum with its care for NaN to three
            if keep_low:
                rows[low] = torch.where(less, a, b)
            if keep_high:
                rows[high] = torch.where(less, b, a)
        return rows

    def mean(self, rows: Sequence[Row]) -> Row:
        """Return the mean of the rows, added in the order given; finite wherever they are."""
        share = 1.0 / len(rows)
        scaled = rows[0] if len(rows) == 1 else rows[0] * share
        for row in rows[1:]:
            scaled = scaled + row * share
        if len(rows) <= 2:
            return scaled
        total = rows[0]
        for row in rows[1:]:
            total = total + row
        mean = total * share
        return torch.where(torch.isfinite(mean), mean, scaled)

    def nearest(self, rows: Sequence[Row], centre: Row) -> Row:
        """Return, in each column, the value nearest to the centre; rows ascend, and of two as near the lower counts."""
        best = rows[0]
        for row in rows[1:]:
            best = torch.where((row - centre).abs() < (best - centre).abs(), row, best)
        return best


class Compiler:
    """Makes and keeps one compiled loop for each number of rows, f and dtype; without a compiler there are none."""

    def __init__(self) -> None:
        self._loops: dict[Any, Callable[[Tensor], Tensor]] = {}
        self._works = True

    def run(self, rule: Callable[..., Row], tile: Tensor, f: int, parameters: dict[str, Any]) -> Tensor | None:
        """Return the rule's result for the columns of ``tile``, or None where nothing could be compiled (said once)."""
        if not self._works:
            return None
        key = (tile.shape[0], f, tile.dtype, tile.device)
        try:
            if key not in self._loops:
                self._loops[key] = self._compile(rule, tile.shape[0], f, parameters)
            return self._loops[key](tile)
        except Exception as error:  # whatever the compiler chokes on, the eager path does the same work
            self._works = False
            reason = str(error).strip().split("\n")[0]
            warnings.warn(f"torch.compile failed, aggregating without it: {reason}", RuntimeWarning, stacklevel=2)
            return None

    @staticmethod
    def _compile(rule: Callable[..., Row], n: int, f: int, parameters: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        def loop(tile: Tensor) -> Tensor:
            result: Tensor = rule(TracedColumns([tile[i] for i in range(n)]), f, **parameters) + 0.0
            return result

        flat = torch.fx.symbolic_trace(loop)  # leaves the compiler nothing but arithmetic to look at
        compiled: Callable[[Tensor], Tensor] = torch.compile(flat, dynamic=True, fullgraph=True)
        return compiled
