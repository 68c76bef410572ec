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


class RoundWarnings:
    """Looks at the rounds of a run in its server, and warns once of each thing that needs attention."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._clipped = 0  # consecutive sampled rounds in which nearly every reply was clipped
        self._seen, self._vectors, self._results = 0, 0.0, 0.0
        self._has_said = set[str]()

    def watch(self, vectors: Tensor, level: float | None, result: Aggregated) -> None:
        """Look at a sampled round: its replies [n x d] before clipping, the level, and the rule's result."""
        self._watch_sparsity(vectors, result.vector)
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

    def _watch_sparsity(self, vectors: Tensor, result: Tensor) -> None:
        """Warn where results are far sparser than the vectors (SPEC: the trap of medians and rand_k)."""
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
