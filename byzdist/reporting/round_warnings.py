"""Warnings during a run about what its rounds show. Each comes once, and names the number, the reason and what to set."""

import logging
from typing import Any

import torch
from torch import Tensor

from byzdist.aggregation import Aggregated
from byzdist.methods import Method

log = logging.getLogger(__name__)
_ROUNDS = 100  # consecutive rounds with nearly everything clipped before a warning
_SPARSE_ROUNDS = 20
_UNCLIPPED_ROUNDS = 300  # sampled rounds under attack without any clipped reply before a warning
_EXPLODED = 1000.0  # times the norm of the first estimate


class RoundWarnings:
    """Looks at the rounds of a run in its server, and warns once of each thing that needs attention.

    Args:
        is_attacked: whether the configuration names an attack.
    """

    def __init__(self, method: Method, *, is_attacked: bool = False) -> None:
        self._method, self._is_attacked = method, is_attacked
        self._levels = 0  # sampled rounds with a level
        self._has_clipped = False
        self._largest = 0.0  # of the median norms of replies, as a multiple of the level
        self._first: float | None = None  # the norm of the first estimate
        self._clipped = 0  # consecutive sampled rounds in which nearly every reply was clipped
        self._seen, self._vectors, self._results = 0, 0.0, 0.0
        self._has_said = set[str]()

    def watch(self, vectors: Tensor, level: float | None, result: Aggregated) -> None:
        """Look at a sampled round: its replies [n x d] before clipping, the level, and the rule's result."""
        self._watch_sparsity(vectors, result.vector)
        self._watch_idle_level(vectors, level, result)
        self._clipped = self._clipped + 1 if level and 10 * result.clipped >= 9 * len(vectors) else 0
        if self._clipped == _ROUNDS:
            assert level is not None and self._method.clip != "none"
            norm = float(torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).median())
            self._say(
                "clipped",
                "method.clip: for %d sampled rounds on end nearly every reply was clipped, in this one to %.2g of the median norm. "
                "If these clients are honest, the estimate cannot follow the gradient: set method.clip to about %.2g instead of %g.",
                _ROUNDS,
                level / norm,
                self._method.clip * norm / level,
                self._method.clip,
            )

    def _watch_idle_level(self, vectors: Tensor, level: float | None, result: Aggregated) -> None:
        """Warn of a level that clips nothing although the run is attacked."""
        self._has_clipped = self._has_clipped or result.clipped > 0
        if not level or self._has_clipped or not self._is_attacked or self._levels == _UNCLIPPED_ROUNDS:
            return
        self._levels += 1
        norms = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
        self._largest = max(self._largest, float(norms.median()) / level)
        if self._levels == _UNCLIPPED_ROUNDS:
            assert self._method.clip != "none"
            self._say(
                "idle",
                "method.clip: in %d sampled rounds no reply was clipped although the run is attacked, so the level limits nothing: the "
                "median norm was at most %.2g of it. If rounds with a Byzantine majority do harm, set method.clip to about %.2g instead "
                "of %g.",
                _UNCLIPPED_ROUNDS,
                self._largest,
                2 * self._largest * self._method.clip,
                self._method.clip,
            )

    def watch_estimate(self, round_: int, size: float) -> None:
        """Warn of an estimate that has grown out of all proportion; ``size``: its norm."""
        if self._first is None:
            self._first = size
        elif self._first and size > _EXPLODED * self._first:
            remedy = "a number (1.0, say)" if self._method.clip == "none" else f"less than {self._method.clip:g}"
            self._say(
                "exploded",
                "the estimate explodes: its norm is %.3g in round %d and was %.3g at first. Set method.step_size lower, or method.clip to "
                "%s.",
                size,
                round_,
                self._first,
                remedy,
            )

    def _watch_sparsity(self, vectors: Tensor, result: Tensor) -> None:
        """Warn of results that are far sparser than the vectors, as medians of independent rand_k messages are."""
        if self._seen >= _SPARSE_ROUNDS:
            return
        self._seen += 1
        self._vectors += float(torch.count_nonzero(vectors)) / len(vectors)
        self._results += float(torch.count_nonzero(result))
        if self._seen == _SPARSE_ROUNDS and self._results < self._vectors / 2:
            self._say(
                "sparse",
                "the aggregation rule returns mostly zeros (%.2g of its vectors' entries): coordinate-wise medians of independently "
                "sparsified vectors are sparse. Use compression.support=shared, bucketing, or a rule that is not coordinate-wise.",
                self._results / self._vectors,
            )

    def untrusted(self, doubt: str, has_estimate: bool) -> None:
        """Warn that a round's replies, which are not clipped, could not be trusted."""
        if has_estimate:
            self._say(
                "kept",
                "a full round was not trusted (%s declared Byzantine clients): the estimate is kept, and another is called soon. The "
                "metrics say so in 'untrusted'.",
                doubt,
            )
        else:
            self._say(
                "no estimate",
                "the first full round was not trusted (%s declared Byzantine clients): there is no estimate yet and the model does not "
                "move; every round is a full one until one can be trusted.",
                doubt,
            )

    def _say(self, about: str, text: str, *values: Any) -> None:
        if about not in self._has_said:
            self._has_said.add(about)
            log.warning(text, *values)
