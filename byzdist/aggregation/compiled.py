"""Column rules as one compiled loop for each number of rows: in C on the CPU, by torch.compile on a GPU."""

import logging
import math
from collections.abc import Callable
from subprocess import CalledProcessError
from typing import Any

import torch
from torch import Tensor

from byzdist.aggregation import native, traced
from byzdist.aggregation.columns import Row

log = logging.getLogger(__name__)


class Compiler:
    """Makes and keeps one compiled loop for each number of rows, f, dtype and device; without a compiler there are none."""

    def __init__(self) -> None:
        self._loops: dict[Any, Callable[[Tensor, Tensor], object]] = {}
        self.works = True

    def run(self, rule: Callable[..., Row], tile: Tensor, f: int, parameters: dict[str, Any], out: Tensor) -> bool:
        """Write the rule's result for the columns of ``tile`` to ``out``, both of unit stride.

        False where nothing can be compiled, which is said once, and where a sum left the range of the numbers: a loop that
        minded that would cost twice as much.
        """
        key = (tile.shape[0], f, tile.dtype, tile.device)
        try:
            if key not in self._loops:
                self._loops[key] = self._make(rule, tile, f, parameters)
            self._loops[key](tile, out)
        except Exception as error:  # whatever the compiler chokes on, the eager path does the same work
            self.works = False
            complaint = error.stderr if isinstance(error, CalledProcessError) else str(error)
            first = complaint.strip().split("\n")[0]
            log.warning("a column rule could not be compiled; aggregating without that: %s", first)
            return False
        return all(map(math.isfinite, torch.aminmax(out)))

    @staticmethod
    def _make(
        rule: Callable[..., Row], tile: Tensor, f: int, parameters: dict[str, Any]
    ) -> Callable[[Tensor, Tensor], object]:
        n = tile.shape[0]
        if tile.device.type == "cpu":
            return native.make_loop(rule, n, f, parameters, tile.dtype)
        return traced.make_loop(rule, n, f, parameters)
