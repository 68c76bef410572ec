"""Compiled loops: column rules, one for each number of rows, in C on the CPU and by torch.compile on a GPU; inner products in C."""

import logging
import math
from collections.abc import Callable
from subprocess import CalledProcessError
from typing import Any

import torch
from torch import Tensor

from byzdist.aggregation import native, native_columns, native_products, traced
from byzdist.aggregation.columns import Row
from byzdist.aggregation.native_products import Products

log = logging.getLogger(__name__)


class Compiler:
    """Makes and keeps the loops of a column rule for each number of rows, f, dtype and device; those of inner products are common.

    Without a compiler there are none, which is said once.
    """

    def __init__(self) -> None:
        self._loops: dict[Any, Callable[[Tensor, Tensor], object]] = {}
        self.works = True

    def products(self, rows: Tensor) -> Products | None:
        """Return the loop that forms inner products of these rows, where one can be had."""
        possible = self.works and rows.device.type == "cpu" and rows.dtype in native.REALS
        if not possible or len(rows) > native_products.MOST:
            return None
        try:
            return native_products.make_loop(rows.dtype)
        except Exception as error:
            self._give_up(error)
            return None

    def run(self, rule: Callable[..., Row], tile: Tensor, f: int, parameters: dict[str, Any], out: Tensor) -> bool:
        """Write the rule's result for the columns of ``tile`` to ``out``, both of unit stride.

        False where nothing can be compiled, and where a sum left the range of the numbers: a loop that minded that would
        cost twice as much.
        """
        if not self.works:
            return False
        key = (tile.shape[0], f, tile.dtype, tile.device)
        try:
            if key not in self._loops:
                self._loops[key] = self._make(rule, tile, f, parameters)
            self._loops[key](tile, out)
        except Exception as error:
            self._give_up(error)
            return False
        return all(map(math.isfinite, torch.aminmax(out)))

    def _give_up(self, error: Exception) -> None:
        """Whatever the compiler chokes on, the eager path does the same work."""
        self.works = False
        complaint = error.stderr if isinstance(error, CalledProcessError) else str(error)
        first = complaint.strip().split("\n")[0]
        log.warning("a loop could not be compiled; aggregating without that: %s", first)

    @staticmethod
    def _make(
        rule: Callable[..., Row], tile: Tensor, f: int, parameters: dict[str, Any]
    ) -> Callable[[Tensor, Tensor], object]:
        n = tile.shape[0]
        if tile.device.type == "cpu":
            return native_columns.make_loop(rule, n, f, parameters, tile.dtype)
        return traced.make_loop(rule, n, f, parameters)
