"""Column rules as one fused loop, by torch.compile: each column is read once and all comparisons are in registers."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from byzdist.aggregation.columns import Columns, Row
from byzdist.aggregation.networks import selection_network

WHOLE = {torch.float32: torch.int32, torch.float64: torch.int64}  # the whole numbers that are as long


def ordered(bits: Row, dtype: torch.dtype) -> Row:
    """Turn floats, read as whole numbers, into whole numbers of the same order; done twice it changes nothing."""
    return torch.where(bits < 0, bits ^ torch.iinfo(WHOLE[dtype]).max, bits)


class TracedColumns(Columns):
    """The operations of ``Columns`` as expressions, for a tracer to see and a compiler to fuse, with the same bits.

    The rows are floats of ``dtype`` read as whole numbers: the minimum of two takes the processor one instruction, that of
    floats, with care for NaN, three or four.
    """

    def __init__(self, rows: Sequence[Row], dtype: torch.dtype) -> None:
        super().__init__(rows, (), writable=False, lib=torch)
        self._dtype = dtype

    def ranks(self, labels: tuple[int, ...]) -> list[Row]:
        """Return the rows, those with the ranks that ``labels`` ask for in place (see ``selection_network``)."""
        rows = [ordered(row, self._dtype) for row in self._rows]
        for low, high, keep_low, keep_high in selection_network(labels):
            a, b = rows[low], rows[high]
            if keep_low:
                rows[low] = torch.minimum(a, b)
            if keep_high:
                rows[high] = torch.maximum(a, b)
        return [ordered(row, self._dtype).view(self._dtype) for row in rows]

    def mean(self, rows: Sequence[Row]) -> Row:
        """Return the mean of the rows, added in the order given; of more than two it may overflow, see `Compiler.run`."""
        share = 1.0 / len(rows)
        if len(rows) > 2:
            total = rows[0]
            for row in rows[1:]:
                total = total + row
            return total * share
        return rows[0] if len(rows) == 1 else rows[0] * share + rows[1] * share

    def nearest(self, rows: Sequence[Row], centre: Row) -> Row:
        """Return, in each column, the value nearest to the centre; rows ascend, and of two as near the lower counts."""
        best = rows[0]
        for row in rows[1:]:
            best = torch.where((row - centre).abs() < (best - centre).abs(), row, best)
        return best


class Compiler:
    """Makes and keeps one compiled loop for each number of rows, f and dtype; without a compiler there are none."""

    def __init__(self) -> None:
        self._loops: dict[Any, Callable[[Tensor, Tensor], object]] = {}
        self.works = True

    def run(self, rule: Callable[..., Row], tile: Tensor, f: int, parameters: dict[str, Any], out: Tensor) -> bool:
        """Write the rule's result for the columns of ``tile`` to ``out``.

        False where nothing can be compiled, which is said once, and where a sum left the range of the numbers: a loop that
        minded that would cost twice as much.
        """
        key = (tile.shape[0], f, tile.dtype, tile.device)
        try:
            if key not in self._loops:
                self._loops[key] = self._compile(rule, tile.shape[0], f, parameters, tile.dtype)
            self._loops[key](tile.view(WHOLE[tile.dtype]), out)
        except Exception as error:  # whatever the compiler chokes on, the eager path does the same work
            self.works = False
            reason = str(error).strip().split("\n")[0]
            warnings.warn(f"torch.compile failed, aggregating without it: {reason}", RuntimeWarning, stacklevel=2)
            return False
        return all(map(math.isfinite, torch.aminmax(out)))

    @staticmethod
    def _compile(
        rule: Callable[..., Row], n: int, f: int, parameters: dict[str, Any], dtype: torch.dtype
    ) -> Callable[[Tensor, Tensor], object]:
        def loop(
            tile: Tensor, out: Tensor
        ) -> Tensor:  # writes where it is told to: fresh memory costs more than the loop
            result: Tensor = rule(TracedColumns([tile[i] for i in range(n)], dtype), f, **parameters)
            return out.copy_(result + 0.0)

        flat = torch.fx.symbolic_trace(loop)  # leaves the compiler nothing but arithmetic to look at
        compiled: Callable[[Tensor, Tensor], object] = torch.compile(flat, dynamic=True, fullgraph=True)
        return compiled
