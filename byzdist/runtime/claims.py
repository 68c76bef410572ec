"""What clients with private data claim about the model. Claims are reported as such and used for nothing."""

import math
from dataclasses import dataclass, replace
from math import fsum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzdist.problem.objective import metrics
from byzdist.problem.oracle import Oracle
from byzdist.rounds import LateReply, Payloads, Replies, Round
from byzdist.runtime.experiment import Experiment

_LARGEST = 1e30  # a claim beyond that is dropped
Claimed = dict[str, dict[str, float]]
"""By the name of what was measured: ``median``, ``spread`` (the median distance from it) and ``clients``, how many claim it."""


@dataclass(frozen=True)
class Claims:
    """The numbers at the end of each reply's payload: what the client measured at x^k in a round with an evaluation, zeros in any other.

    Attributes:
        names: what each number measures.
        every, last: clients evaluate in each round that ``every`` divides, and in round ``last``.
    """

    names: tuple[str, ...]
    every: int
    last: int

    @classmethod
    def of(cls, experiment: Experiment) -> "Claims | None":
        """Return what the clients of a run claim; None if the server evaluates."""
        config = experiment.config
        return cls(experiment.claimed, config.evaluate.every, config.rounds) if experiment.claimed else None

    @property
    def nbytes(self) -> int:
        """How many bytes the claims take in a payload."""
        return 8 * len(self.names)

    def are_due(self, round_: Round) -> bool:
        """Return whether clients evaluate in a round."""
        return round_.number % self.every == 0 or round_.number == self.last

    def write(self, out: Tensor, oracle: Oracle, x: Tensor, client: int, round_: Round) -> None:
        """Write a client's claims into the last bytes of its payload (uint8)."""
        values = self._measure(oracle, x, client, round_) if self.are_due(round_) else [0.0] * len(self.names)
        out.copy_(torch.from_numpy(np.array(values, "<f8").view(np.uint8)))

    def _measure(self, oracle: Oracle, x: Tensor, client: int, round_: Round) -> list[float]:
        loss, x = oracle.loss, x.to(oracle.loss.device)
        seen = [
            (1.0, samples, loss.measure(x, batch, samples))
            for batch, samples in oracle.data.batches(client, None, round_)
        ]
        counted = fsum(measured.count for _, _, measured in seen)
        mean = fsum(measured.count * measured.loss for _, _, measured in seen) / counted
        found = {"loss": mean + loss.l2 * float(torch.dot(x, x)), **metrics(loss.task, seen)}
        return [found[name] for name in self.names]

    def cut(self, replies: Replies) -> tuple[Replies, Tensor]:
        """Return the replies without their claims, and the claims: R x bytes (uint8)."""
        rows = replies.payloads.rows
        end = rows.shape[1] - self.nbytes
        late = {client: LateReply(one.round, one.payload[: -self.nbytes]) for client, one in replies.late.items()}
        return replace(replies, payloads=Payloads(replies.payloads, rows[:, :end]), late=late), rows[:, end:]

    def summary(self, rows: Tensor) -> Claimed:
        """Return what is reported of the claims in these rows (uint8): each name over the clients whose claim is a possible number."""
        values = np.frombuffer(rows.cpu().numpy().tobytes(), "<f8").reshape(-1, len(self.names))
        return {name: found for name, column in zip(self.names, values.T, strict=True) if (found := _middle(column))}


def _middle(column: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    possible = [value for value in column.tolist() if math.isfinite(value) and abs(value) <= _LARGEST]
    if not possible:
        return {}
    median = float(np.median(possible))
    return {"median": median, "spread": float(np.median(np.abs(np.array(possible) - median))), "clients": len(possible)}
