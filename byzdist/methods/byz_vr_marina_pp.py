"""Byz-VR-MARINA-PP and its variants (Malinovsky, Richtárik, Horváth, Gorbunov, NeurIPS 2024) [BRPP]."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from byzdist.errors import ConfigError
from byzdist.methods.base import METHODS, ClientTask, ClipFactor, Full, Method, Probability, Sizes, draw_batch
from byzdist.problem.oracle import Oracle
from byzdist.registry import RunFacts
from byzdist.rounds import Round


@METHODS.register("byz_vr_marina_pp")
@dataclass(kw_only=True)
class ByzVRMarinaPP(Method):
    """Byz-VR-MARINA-PP [BRPP Alg. 1]: clipped, compressed gradient differences from a cohort, and occasionally full gradients.

    ``full_batch: <b'>`` gives Algorithm 4, whose full rounds use b' samples a client.
    """

    p: Probability | None = None
    g0: Literal["full", "zero"] = "full"
    full_batch: Full | Annotated[int, Ge(1)] = "all"

    sends_differences = True

    def resolved(self, sizes: Sizes) -> "ByzVRMarinaPP":
        """Fill in Ĉ = n and p = min(C/n, b/m, ζ_Q/d)."""
        p = min(self.cohort / sizes.clients, self.batch_size / sizes.samples, sizes.nonzeros / sizes.dimension, 1.0)
        return replace(self, full_cohort=self.full_cohort or sizes.clients, p=self.p or p)

    def is_full(self, round_: Round) -> bool:
        """Draw c_k ~ Bernoulli(p)."""
        assert self.p is not None
        return bool(round_.rng("coin").random() < self.p)

    @property
    def starts_full(self) -> bool:
        """Whether g^0 comes from a full round; g^0 = 0 otherwise."""
        return self.g0 == "full"

    def message(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Client: ∇f_i(x^k) in full rounds, else the difference of gradients at x^k and x^{k-1} on one mini-batch."""
        samples = oracle.samples(task.client)
        if task.previous is not None:
            oracle.difference(task.x, task.previous, task.client, task.batch(samples, self.batch_size), out)
        else:
            batch = None if self.full_batch == "all" else task.batch(samples, self.full_batch)
            oracle.gradient(task.x, task.client, batch, out)

    def positions(self, round_: Round, client: int, samples: int) -> np.ndarray | None:
        """Return which samples `message` will read: in full rounds all or b', else a mini-batch."""
        if not round_.full:
            return super().positions(round_, client, samples)
        if self.full_batch == "all":
            return None
        return draw_batch(round_, client, samples, self.full_batch, self.batches)

    @classmethod
    def evaluations(
        cls, parameters: Mapping[str, Any], full: bool, samples: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the samples of two mini-batches, or in full rounds all or b'; see `Method.evaluations`."""
        if not full:
            return super().evaluations(parameters, full, samples)
        batch = parameters["full_batch"]
        computed: NDArray[np.float64] = np.minimum(samples, np.inf if batch == "all" else batch)
        return computed

    def apply(self, g: Tensor, aggregated: Tensor, round_: Round, level: float | None) -> None:
        """Server: g^k = ARAgg(received) in full rounds, else g^k = g^{k-1} + ARAgg(clip_λ(received))."""
        if round_.full:
            g.copy_(aggregated)
        else:
            g.add_(aggregated)


@METHODS.register("byz_vr_marina_pp_plus")
@dataclass(kw_only=True)
class ByzVRMarinaPPPlus(ByzVRMarinaPP):
    """Byz-VR-MARINA-PP+ [BRPP Alg. 3; Alg. 5 with ``full_batch``]: sampled rounds take the mean of the clipped vectors."""

    plain_mean = True


@METHODS.register("byz_vr_marina")
@dataclass(kw_only=True)
class ByzVRMarina(ByzVRMarinaPP):
    """Byz-VR-MARINA (Gorbunov et al., ICLR 2023): the special case with all clients in every round and no clipping."""

    cohort: Annotated[int, Ge(1)] | None = None  # type: ignore[assignment]
    clip: ClipFactor = "none"

    @classmethod
    def check_run(cls, run: RunFacts, key: str, **parameters: Any) -> None:
        """Refuse cohorts of less than all clients, and clipping, besides what every method refuses."""
        super().check_run(run, key, **parameters)
        everyone = (None, run.clients)
        for word, allowed in (("cohort", everyone), ("full_cohort", everyone), ("clip", ("none",))):
            if parameters[word] not in allowed:
                raise ConfigError(
                    f"{key}.{word}: byz_vr_marina is the case with all clients and no clipping; leave the key out "
                    "or use byz_vr_marina_pp."
                )

    def resolved(self, sizes: Sizes) -> "ByzVRMarinaPP":
        """Fill in C = Ĉ = n and the default p."""
        everyone = replace(self, cohort=sizes.clients, full_cohort=sizes.clients)
        return ByzVRMarinaPP.resolved(everyone, sizes)
