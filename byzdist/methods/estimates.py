"""Methods in which clients send full gradient estimates, under the clipping heuristic [BRPP eq. 10]."""

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Lt
from torch import Tensor

from byzdist.methods.base import METHODS, ClientTask, Method
from byzdist.methods.server_optimizers import OPTIMIZERS
from byzdist.problem.oracle import Oracle
from byzdist.registry import RunFacts
from byzdist.rounds import Messages, Round

_DIRECTION = "_direction"  # a key in ``state`` besides those of the server optimizer, which may have any other name


@dataclass(kw_only=True)
class ClippedEstimates(Method):
    """The server half of eq. 10: g^k = g^{k-1} + Agg(clip_λ(g_i^k - g^{k-1})), for any kind of estimate g_i^k that clients send.

    ``clip: none`` is plain partial participation, g^k = Agg(g_i^k). Round 0 is a full round, with ARAgg of Ĉ clients. The server
    also calls a full round after an estimate of exactly zero, for example, because the level is then 0 and clips everything away.

    With ``server_optimizer: {name: sgd | nesterov | adam}`` the model moves by the optimizer's direction instead of g^k.
    """

    server_optimizer: str | dict[str, Any] | None = None

    allows_late = True

    @classmethod
    def check_run(cls, run: RunFacts, key: str, **parameters: Any) -> None:
        """Refuse a wrong server optimizer, besides what every method refuses."""
        super().check_run(run, key, **parameters)
        if (optimizer := parameters.get("server_optimizer")) is not None:
            OPTIMIZERS.check(optimizer, f"{key}.server_optimizer")

    @property
    def moves_by_estimate(self) -> bool:
        """Whether x^{k+1} - x^k follows from the step and g^k alone: there is no server optimizer."""
        return self.server_optimizer is None and super().moves_by_estimate

    def direction(self, g: Tensor) -> Tensor:
        """Return the server optimizer's direction, or g^k itself without one."""
        return self.state.get(_DIRECTION, g)

    def end_round(self, g: Tensor) -> None:
        """Pass g^k to the server optimizer, if there is one."""
        if self.server_optimizer is not None:
            out = self.state.setdefault(_DIRECTION, g.clone())
            OPTIMIZERS.build(self.server_optimizer, g, self.state, out, key="method.server_optimizer")

    def rows(self, g: Tensor, received: Messages, level: float | None) -> Tensor:
        """Server: the estimates, or with a level their deviations from g^{k-1}, to be clipped."""
        return received.rows if level is None else received.rows.sub_(g)

    def apply(self, g: Tensor, aggregated: Tensor, round_: Round, level: float | None) -> None:
        """Server: take the aggregated estimates, or with a level move g^{k-1} by the aggregated deviations."""
        if level is None:
            g.copy_(aggregated)
        else:
            g.add_(aggregated)


@METHODS.register("sgd")
@dataclass(kw_only=True)
class SGD(ClippedEstimates):
    """SGD with partial participation under the clipping heuristic [BRPP eq. 10]: clients send mini-batch gradients."""

    def message(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Client: the gradient at x^k on a mini-batch."""
        oracle.gradient(task.x, task.client, task.batch(oracle.samples(task.client), self.batch_size), out)


@METHODS.register("momentum_sgd", "robust_momentum_sgd", "client_momentum_sgd")
@dataclass(kw_only=True)
class MomentumSGD(SGD):
    """Client momentum SGD (Karimireddy et al., ICML 2021) under the clipping heuristic [BRPP eq. 10].

    A client sends m_i = β m_i + (1-β)·gradient. The first m_i is its first gradient; m_i changes only in rounds in which the client
    takes part.
    """

    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9

    clients_remember = True

    def late_factor(self, age: int, share: float) -> float:
        """Return (1 - (1-β)p)^age, as a bank of momenta decays (DeMoA, with α = 1-β)."""
        return (1 - (1 - self.momentum) * share) ** age

    def message(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Client: its momentum, updated with the gradient at x^k on a mini-batch."""
        super().message(oracle, task, out)
        held = task.memory.get("momentum")
        if held is None:
            task.memory["momentum"] = out.clone()
        else:
            out.copy_(held.mul_(self.momentum).add_(out, alpha=1 - self.momentum))
