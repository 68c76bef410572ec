"""Pieces that remember something from round to round, one of each kind, and some that check the run: what a user of byzdist might write."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from byzdist.aggregation.rules import Facts, Rule, minority
from byzdist.attacks.base import Context, remembering
from byzdist.compression.base import Compressor
from byzdist.errors import ConfigError
from byzdist.methods.estimates import SGD
from byzdist.registry import RunFacts, checks_run
from byzdist.rounds import Memory, Messages, Round


class ErrorFeedback(Compressor):
    """Send the first K of the values in turn, and add what was left out to the next message; the server adds up what came."""

    remembers = True

    def __init__(self, *, count: Annotated[int, Ge(1)] = 4) -> None:
        self._count = count

    def nonzeros(self, dimension: int) -> float:
        return float(self._count)

    def length(self, dimension: int, dtype: torch.dtype) -> int:
        return self._count * dtype.itemsize

    def _chosen(self, dimension: int, round_: Round) -> Tensor:
        return (torch.arange(self._count) + self._count * round_.number) % dimension

    def encode(self, vector: Tensor, payload: Tensor, round_: Round, client: int, memory: Memory) -> None:
        chosen = self._chosen(len(vector), round_)
        error = memory.setdefault("error", torch.zeros_like(vector)).add_(vector)
        payload.view(vector.dtype).copy_(error[chosen])
        error[chosen] = 0.0

    def decode(self, payload: Tensor, vector: Tensor, round_: Round, client: int, memory: Memory) -> None:
        vector.zero_()
        vector[self._chosen(len(vector), round_)] = payload.view(vector.dtype)
        memory["sum"] = vector.add_(memory.get("sum", torch.zeros_like(vector)), alpha=0.5).clone()


@dataclass(kw_only=True)
class Bank(SGD):
    """A method that aggregates the last vector of every client, whether it took part in the round or not."""

    def rows(self, g: Tensor, received: Messages, level: float | None) -> Tensor:
        bank = self.state.setdefault("bank", torch.zeros(9, len(g), dtype=g.dtype))
        bank[received.clients] = received.rows
        return bank


@remembering
def drifting(now: Context) -> Tensor:
    """Send the sum of all honest messages so far."""
    total = now.memory.setdefault("sum", torch.zeros_like(now.honest))
    return now.honest.copy_(total.add_(now.honest))


def _smoothed(rows: Tensor, f: int, memory: Memory) -> Tensor:
    """Return the mean of the median and what was returned before."""
    median = rows.median(0).values
    memory["before"] = (memory["before"] + median) / 2 if "before" in memory else median
    return memory["before"]


smoothed = Rule(_smoothed, "plain", Facts(minority, "1/2", ""), remembers=True)


class Paired(ErrorFeedback):
    """A compressor for an even number of clients."""

    @staticmethod
    def check_run(run: RunFacts, key: str, *, count: int) -> None:
        if run.clients % 2:
            raise ConfigError(f"{key}: {run.clients} clients are no pairs; add one ({count} values each).")


def _outvoted(run: RunFacts, key: str, *, margin: int) -> None:
    short = {cohort: size for cohort, size in run.vectors.items() if size - 2 * run.declared < margin}
    if short:
        raise ConfigError(f"{key}.margin: {margin} is more than cohorts give: {short} of {dict(run.cohorts)}.")


@checks_run(_outvoted)
def cautious(rows: Tensor, f: int, *, margin: int = 1) -> Tensor:
    """Take the coordinate-wise median of rows whose honest ones are in the majority by some margin."""
    return rows.median(0).values


def _breaks(run: RunFacts, key: str) -> None:
    raise ZeroDivisionError("by nought")


@checks_run(_breaks)
def broken(now: Context) -> Tensor:
    """Do nothing; the check of the run is wrong."""
    return now.honest
