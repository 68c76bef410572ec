"""Byz-DASHA-PAGE: variance reduction by a common coin, and unbiased compression of differences from a copy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from byzdist.errors import ConfigError
from byzdist.methods.base import METHODS, ClientTask, Method, Probability, Sizes
from byzdist.methods.copies import Copies, follows
from byzdist.problem.oracle import Oracle
from byzdist.rounds import Round

_H = "h"


@METHODS.register("byz_dasha_page")
@dataclass(kw_only=True)
class ByzDashaPage(Copies):
    """Byz-DASHA-PAGE (Rammal et al., AISTATS 2024): h_i follows ∇f_i(x^k), and g_i follows h_i by compressed messages.

    In each round all clients see the same coin c ~ Bernoulli(p). Client i has h_i' = ∇f_i(x^k) if c = 1, else h_i plus the difference
    of its gradients at x^k and x^{k-1} on one mini-batch. It sends m_i = Q(h_i' - h_i - a (g_i - h_i)), and g_i += m_i.

    Q is unbiased, and ``a`` is 1/(2ω + 1) unless it is given. ``p`` is by default b/(m + b), so that a third of all gradients are
    computed in rounds with c = 1. Round 0 is a full round: g_i^0 = h_i^0 = ∇f_i(x^0), uncompressed. A client that was not asked in the
    round before cannot know its h_i there, and computes ∇f_i(x^k).
    """

    p: Probability | None = None
    a: Probability | None = None

    sends_differences = True

    def resolved(self, sizes: Sizes) -> Method:
        """Fill in p and a, besides what `Copies` does.

        Raises:
            ConfigError: if a is not given and ω is not known.
        """
        a = self.a
        if a is None:
            if sizes.omega is None:
                raise ConfigError(
                    "method.a: its default is 1/(2ω + 1), and the ω of this compressor is not known. Give a."
                )
            a = 1 / (2 * sizes.omega + 1)
        p = self.p or self.batch_size / (sizes.samples + self.batch_size)
        return Copies.resolved(replace(self, p=p, a=a), sizes)

    def coin(self, round_: Round) -> bool:
        """Return c, the same for all clients of a round; 1 in full rounds."""
        assert self.p is not None
        return round_.full or bool(round_.rng("coin").random() < self.p)

    def message(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Client: h_i' - h_i - a (g_i - h_i), to be compressed; h_i' if g_i begins at 0."""
        begins, h, is_next = task.afresh or not task.memory, task.memory.get(_H), follows(task)
        if h is None or not is_next or task.previous is None or self.coin(task.round):
            oracle.gradient(task.x, task.client, None, out)
        else:
            batch = task.batch(oracle.samples(task.client), self.batch_size)
            oracle.difference(task.x, task.previous, task.client, batch, out)
            out.add_(h)
        task.memory[_H] = out.clone()
        g = self.copy(task)
        if not begins:
            assert h is not None and self.a is not None
            out.sub_(h).sub_(g - h, alpha=self.a)

    def positions(self, round_: Round, client: int, samples: int) -> np.ndarray | None:
        """Return which samples `message` will read: all if the coin says so, else a mini-batch."""
        return None if self.coin(round_) else super().positions(round_, client, samples)

    @classmethod
    def evaluations(
        cls, parameters: Mapping[str, Any], full: bool, samples: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return all samples in full rounds, else their mean over the coin; see `Method.evaluations`."""
        if full:
            return samples
        p = parameters["p"]
        mean: NDArray[np.float64] = p * samples + (1 - p) * super().evaluations(parameters, full, samples)
        return mean
