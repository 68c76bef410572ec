"""DeMoA, delayed momentum aggregation (Otsuka, Takezawa, Yamada, ICML 2026)."""

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt

from byzdist.errors import ConfigError
from byzdist.methods.bank import Bank
from byzdist.methods.base import METHODS, ClipFactor
from byzdist.registry import RunFacts


@METHODS.register("demoa")
@dataclass(kw_only=True)
class DeMoA(Bank):
    """DeMoA, delayed momentum aggregation (Otsuka et al., ICML 2026): the rule also gets the momenta of clients that were not asked.

    A client that is not asked in a round counts with its last momentum, decayed as the client itself would decay it. In the paper
    clients keep m_i, and the server a copy. Here the server computes m_i from the gradients that it gets, which is the same
    recursion. So clients remember nothing, and any unbiased compressor may be used. The paper draws each client with probability p;
    here C of n are drawn, and p = C/n.

    Needs: n·d values of memory on the server; 0 < αp <= 1; no clipping (``clip: <α>`` puts the bank under the heuristic
    [BRPP eq. 10], which the paper does not do).

    Attributes:
        alpha: the weight α of a fresh gradient; αp takes the place of 1 - β in ordinary momentum.
    """

    alpha: Annotated[float, Gt(0)] = 1.0
    clip: ClipFactor = "none"

    @property
    def weight(self) -> float:
        """The weight α of a fresh gradient."""
        return self.alpha

    @classmethod
    def check_run(cls, run: RunFacts, key: str, **parameters: Any) -> None:
        """Refuse αp > 1, besides what every method refuses."""
        super().check_run(run, key, **parameters)
        alpha, p = parameters["alpha"], parameters["cohort"] / run.clients
        if alpha * p > 1:
            raise ConfigError(
                f"{key}.alpha: {alpha:g} times p = cohort/clients.count = {p:g} is above 1, so momenta would change their signs. It is "
                f"at most {1 / p:g}."
            )
