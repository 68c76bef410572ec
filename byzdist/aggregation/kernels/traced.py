"""Column rules as one fused loop on a GPU, by torch.compile."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from byzdist.aggregation.columns import Columns, Row
from byzdist.aggregation.kernels.networks import selection_network


class TracedColumns(Columns):
    """The operations of ``Columns`` as expressions, which torch.compile can trace and fuse, with the same bits."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows, (), writable=False, lib=torch)

    def ranks(self, labels: tuple[int, ...]) -> list[Row]:
        """Return the rows with the ranks that ``labels`` ask for in their places (see ``selection_network``)."""
        rows = self._rows
        for low, high, keep_low, keep_high in selection_network(labels):
            a, b = rows[low], rows[high]
            if keep_low:
                rows[low] = torch.minimum(a, b)
            if keep_high:
                rows[high] = torch.maximum(a, b)
        return rows

    def mean(self, rows: Sequence[Row]) -> Row:
        """Return the mean of the rows, added in the order given; with more than two it may overflow, see `Compiler.run`."""
        share = 1.0 / len(rows)
        if len(rows) > 2:
            total = rows[0]
            for row in rows[1:]:
                total = total + row
            return total * share
        return rows[0] if len(rows) == 1 else rows[0] * share + rows[1] * share

    def nearest(self, rows: Sequence[Row], centre: Row) -> Row:
        """Return, in each column, the value nearest to the centre, the lower one in a tie; the rows are in ascending order."""
        best = rows[0]
        for row in rows[1:]:
            best = torch.where(row - centre < centre - best, row, best)
        return best


def make_loop(rule: Callable[..., Row], n: int, f: int, parameters: dict[str, Any]) -> Callable[[Tensor, Tensor], bool]:
    """Return the loop (rows [n x d], out [d]) of a column rule; it is compiled, and may raise any error, at its first call.

    The loop returns False, because it does not check whether the values are finite.
    """

    def loop(rows: Tensor, out: Tensor) -> Tensor:  # writes to ``out``, because fresh memory costs more than the loop
        result: Tensor = rule(TracedColumns([rows[i] for i in range(n)]), f, **parameters)
        return out.copy_(result + 0.0)

    flat = torch.fx.symbolic_trace(loop)  # so that the compiler has nothing but arithmetic to analyse
    compiled: Callable[[Tensor, Tensor], object] = torch.compile(flat, dynamic=True, fullgraph=True)

    def run(rows: Tensor, out: Tensor) -> bool:
        compiled(rows, out)
        return False

    return run
