"""Compiled loops: sums in C; column rules, one loop for each number of rows, in C on the CPU and by torch.compile on a GPU."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Hashable
from functools import lru_cache
from subprocess import CalledProcessError
from typing import Any, NamedTuple

import torch
from torch import Tensor

from byzdist.aggregation.columns import Row
from byzdist.aggregation.kernels import native_columns, native_products, native_sums, traced
from byzdist.aggregation.kernels.native_products import Products
from byzdist.aggregation.kernels.native_sums import Sums

log = logging.getLogger(__name__)


class Loops(NamedTuple):
    """The loops for inner products, and for weighted sums and squares; None: numpy or torch computes them."""

    products: Products | None = None
    sums: Sums | None = None


NO_LOOPS = Loops()


class Ran(NamedTuple):
    """The outcome of a loop: whether it wrote the result, and whether it found all values to be finite."""

    done: bool
    finite: bool = False


class Compiler:
    """Compiles and keeps a column rule's loops for each number of rows, f, dtype and device; all compilers share those of sums.

    If compiling fails, the compiler logs one warning and returns no loops.

    Args:
        after: how many calls a column rule makes without its loop before the loop is compiled.
    """

    def __init__(self, after: int = 0) -> None:
        self._loops: dict[Any, Callable[[Tensor, Tensor], bool]] = {}
        self._asked = Counter[Any]()
        self._after = after
        self.works = True

    def sums(self, rows: Tensor, products: bool) -> Loops:
        """Return the loops for sums of these rows, and with ``products`` for their inner products, as far as there are any."""
        dtype = rows.dtype if rows.dtype == torch.float64 else torch.float32
        if not self.works or rows.device.type != "cpu":
            return NO_LOOPS
        suits = products and rows.dtype == dtype and len(rows) <= native_products.MAX_ROWS
        try:
            return Loops(native_products.make_loop(dtype) if suits else None, native_sums.make_sums(dtype))
        except Exception as error:
            self._give_up(error)
            return NO_LOOPS

    def run(self, rule: Callable[..., Row], tile: Tensor, f: int, parameters: dict[str, Any], out: Tensor) -> Ran:
        """Write the rule's result for the columns of ``tile`` to ``out``, both of unit stride.

        ``done`` is False if nothing can be compiled or a sum overflowed; the caller then computes the result without the loop.
        A loop that handled overflow itself would cost twice as much.
        """
        if not self.works:
            return Ran(False)
        key = (tile.shape[0], f, tile.dtype, tile.device)
        try:
            if key not in self._loops:
                self._asked[key] += 1
                if self._asked[key] <= self._after:
                    return Ran(False)
                self._loops[key] = self._make(rule, tile, f, parameters)
            finite = self._loops[key](tile, out)
        except Exception as error:
            self._give_up(error)
            return Ran(False)
        return Ran(all(map(math.isfinite, torch.aminmax(out))), finite)

    def _give_up(self, error: Exception) -> None:
        """Go on without compiled loops, whatever the error: the calls of numpy and torch do the same work."""
        self.works = False
        complaint = error.stderr if isinstance(error, CalledProcessError) else str(error)
        first = complaint.strip().split("\n")[0]
        log.warning("a loop could not be compiled; aggregating without it: %s", first)

    @staticmethod
    def _make(
        rule: Callable[..., Row], tile: Tensor, f: int, parameters: dict[str, Any]
    ) -> Callable[[Tensor, Tensor], bool]:
        n = tile.shape[0]
        if tile.device.type == "cpu":
            return native_columns.make_loop(rule, n, f, parameters, tile.dtype)
        return traced.make_loop(rule, n, f, parameters)


@lru_cache(maxsize=64)
def kept_compiler(rule: Callable[..., Any], parameters: Hashable) -> Compiler:
    """Return the compiler that this process keeps for a rule with these parameters; threads may share it.

    It compiles a loop at the third call: for one or two calls compiling takes longer than it saves.
    """
    return Compiler(after=2)
