"""RoSDHB, robust sparsified distributed heavy ball (Gupta et al., AISTATS 2026)."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt

from byzdist.methods.bank import Bank
from byzdist.methods.base import METHODS, ClipFactor


@METHODS.register("rosdhb")
@dataclass(kw_only=True)
class RoSDHB(Bank):
    """RoSDHB (Gupta et al., AISTATS 2026): one mask of k of d coordinates for all clients, and their momenta on the server.

    The seed draws the mask of a round. A client sends its gradient's k values there, and no indices. The server scales them by d/k,
    puts zeros elsewhere, and updates m_i = β m_i + (1 - β)·(that vector). All rows have the same zeros, so rules compare like with
    like. The values travel by ``compression: {name: rand_k, ratio: k/d, support: shared}``.

    Needs: that compression, or none; n·d values of memory on the server. The paper has all clients in every round, and its code begins
    with m_i = 0 (``g0: zero``). With a smaller cohort, rows of clients that were not asked decay as in `demoa`, which is a heuristic.

    Attributes:
        momentum: β.
    """

    cohort: Annotated[int, Ge(1)] | None = None  # type: ignore[assignment]
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    clip: ClipFactor = "none"

    needs_common_mask = True

    @property
    def weight(self) -> float:
        """The weight 1 - β of a fresh gradient."""
        return 1 - self.momentum
