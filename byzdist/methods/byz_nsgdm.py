"""Byz-NSGDM, normalized steps along aggregated client momentum (Bolatov et al., CPAL 2026)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from byzdist.methods.base import METHODS, ClipFactor
from byzdist.methods.estimates import MomentumSGD


@METHODS.register("byz_nsgdm")
@dataclass(kw_only=True)
class ByzNSGDM(MomentumSGD):
    """Byz-NSGDM (Bolatov et al., CPAL 2026): client momentum, a robust rule after `nnm`, and steps x^{k+1} = x^k - γ_k R/‖R‖.

    Clients send m_i = β m_i + (1-β)·gradient, and R is the aggregate of the m_i. The step has length γ_k whatever R is, so the
    method suits losses whose curvature grows with the gradient, and even a round with a Byzantine majority moves the model by
    γ_k only. The authors' code has γ_k = γ_0/√k: ``step_size: {name: power, value: γ_0}``.

    Needs: clients with memory. The paper has all clients in every round, which is the default, and no clipping. A smaller cohort,
    and ``clip: <α>`` for the heuristic [BRPP eq. 10], are not covered by its theory.
    """

    cohort: Annotated[int, Ge(1)] | None = None  # type: ignore[assignment]
    clip: ClipFactor = "none"
    server_optimizer: Literal["normalized"] = "normalized"
