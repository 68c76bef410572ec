"""What a reviewer asks of a run (`metrics.diagnostics`): how good the estimate is, what hostile rows got, and who looks hostile."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzdist.aggregation import Aggregated
from byzdist.norms import norm
from byzdist.reporting.record import RoundRecord
from byzdist.rounds import Messages
from byzdist.runtime.experiment import Experiment


@dataclass
class Tally:
    """What is counted of one client over the run.

    Attributes:
        asked, answered: rounds in which it was asked, and in which its reply could be used.
        measured: rounds in which a row of this client was aggregated.
        clipped: in how many of these the row was clipped.
        distance: sum over these of the row's distance from the aggregate, in units of the median distance of the round's rows.
    """

    asked: int = 0
    answered: int = 0
    measured: int = 0
    clipped: int = 0
    distance: float = 0.0


class Diagnostics:
    """Measures every round, and counts what each client does. It knows which clients are Byzantine, and changes nothing.

    Args:
        gradient: where the evaluation leaves ∇f(x^k), d values; None if the server cannot compute it.
    """

    def __init__(self, experiment: Experiment, gradient: Tensor | None) -> None:
        self._clients = experiment.config.clients.count
        self._byzantine = np.isin(np.arange(self._clients), list(experiment.config.clients.byzantine_ids))
        self._gradient = gradient
        self._estimate: Tensor | None = None
        self._found: dict[str, float] = {}
        self._tallies = [Tally() for _ in range(self._clients)]

    def look(self, received: Messages, rows: Tensor, level: float | None, result: Aggregated, g: Tensor) -> None:
        """Measure a round whose rows were aggregated.

        Args:
            received: the usable replies.
            rows: what the rule got, before clipping: a row for each reply, or one for each client of the run.
            level: the clipping level; None: rows are not clipped.
            result: what the rule made of them.
            g: the estimate, which is read when the round is recorded.
        """
        self._estimate = g
        clients = self._owners(received, len(rows))
        if clients is None:
            return
        hostile = self._byzantine[clients]
        distances = _norms(rows - result.vector)
        clipped = _norms(rows) > level if level is not None else np.zeros(len(rows), dtype=bool)
        self._found = _of_rows(rows, hostile, result)
        if level is not None:
            self._found |= _shares(clipped, hostile)
        middle = float(np.median(distances)) or 1.0
        for client, was_clipped, distance in zip(clients, clipped.tolist(), distances.tolist(), strict=True):
            tally = self._tallies[client]
            tally.measured += 1
            tally.clipped += was_clipped
            tally.distance += distance / middle

    def _owners(self, received: Messages, rows: int) -> list[int] | None:
        """Return whose each row is; None if the method made rows that are not clients'."""
        if rows == len(received.clients):
            return received.clients
        return list(range(self._clients)) if rows == self._clients else None

    def complete(self, record: RoundRecord) -> None:
        """Add to a round's record what was measured, and count who was asked and who answered."""
        for client in record.cohort:
            self._tallies[client].asked += 1
            self._tallies[client].answered += client not in record.missing
        record.diagnostics, self._found = self._found, {}
        if record.evaluation and self._gradient is not None and self._estimate is not None:
            record.diagnostics["estimate_error"] = norm(self._estimate - self._gradient)

    def columns(self, offences: Mapping[int, int]) -> dict[str, Sequence[object]]:
        """Return the columns of clients.csv that say what each client did; ``offences``: how many, by client."""
        counted = self._tallies
        distances = [f"{one.distance / one.measured:.4g}" if one.measured else "" for one in counted]
        return {
            "byzantine": [int(hostile) for hostile in self._byzantine],
            "asked": [one.asked for one in counted],
            "answered": [one.answered for one in counted],
            "clipped": [one.clipped for one in counted],
            "offences": [offences.get(client, 0) for client in range(self._clients)],
            "distance": distances,
        }

    def state(self) -> list[dict[str, Any]]:
        """Return what a checkpoint keeps, as JSON."""
        return [asdict(tally) for tally in self._tallies]

    def resume(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state` returned."""
        self._tallies = [Tally(**counted) for counted in state]


def _norms(rows: Tensor) -> np.ndarray:
    found: np.ndarray = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).cpu().numpy()
    return found


def _of_rows(rows: Tensor, hostile: np.ndarray, result: Aggregated) -> dict[str, float]:
    """Return how honest rows vary, how far the aggregate is from their mean, and the share of the weight that Byzantine rows got."""
    found, honest = {}, rows[torch.from_numpy(~hostile).to(rows.device)]
    if len(honest):
        mean = honest.mean(0, dtype=torch.float64)
        found["honest_variance"] = float(np.mean(_norms(honest - mean) ** 2))
        found["aggregate_error"] = norm(result.vector - mean)
    if result.weights is not None and (total := float(result.weights.sum())):
        found["byzantine_weight"] = float(result.weights[hostile].sum()) / total
    return found


def _shares(clipped: np.ndarray, hostile: np.ndarray) -> dict[str, float]:
    """Return the share of rows that were clipped, among honest and among Byzantine ones."""
    named = {"honest_clipped": clipped[~hostile], "byzantine_clipped": clipped[hostile]}
    return {name: float(part.mean()) for name, part in named.items() if len(part)}
