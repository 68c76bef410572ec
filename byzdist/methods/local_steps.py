"""Local steps: FedAvg, FedRo and DiLoCo, plain or under the clipping heuristic."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from byzdist.methods.base import METHODS, ClientTask, draw_batch
from byzdist.methods.estimates import ClippedEstimates
from byzdist.methods.inner_optimizers import INNER
from byzdist.problem.oracle import Oracle
from byzdist.registry import RunFacts
from byzdist.rounds import Round


@METHODS.register("local_steps")
@dataclass(kw_only=True)
class LocalSteps(ClippedEstimates):
    """A client takes H steps and sends how far it went, Δ_i = x^k - y; the server aggregates these and takes an outer step.

    With D^k = Agg(Δ_i), the outer step is x^{k+1} = x^k - γ_k D^k, or one of ``server_optimizer`` with D^k as the gradient. Δ_i is a
    full estimate, so a number for ``clip`` puts it under the heuristic D^k = D^{k-1} + Agg(clip_λ(Δ_i - D^{k-1})) [BRPP eq. 10].
    Mini-batches are keyed by client, round and step. A full round, such as round 0, has the same H steps.

    FedAvg (McMahan et al., AISTATS 2017): ``inner`` sgd, ``step_size: 1``, ``clip: none``, rule `mean`. FedRo (Allouah et al.,
    ICML 2024): the same with a robust rule. DiLoCo (Douillard et al., 2023): ``inner`` adamw, ``server_optimizer: nesterov``,
    ``step_size: 0.7``.

    Needs: clients with memory if ``remember_inner``.

    Attributes:
        steps: H.
        inner: the inner optimizer with its step size, see `byzdist.methods.inner_optimizers`.
        remember_inner: whether a client's inner optimizer goes on from its last round; by default it starts afresh in every round.
    """

    steps: Annotated[int, Ge(1)]
    inner: dict[str, Any]
    remember_inner: bool = False

    follows_gradients = False  # but the sums of a client's steps

    def __post_init__(self) -> None:
        """Let clients have memory only if they need it."""
        self.clients_remember = self.remember_inner

    @classmethod
    def check_run(cls, run: RunFacts, key: str, **parameters: Any) -> None:
        """Refuse a wrong inner optimizer, besides what every method refuses."""
        super().check_run(run, key, **parameters)
        INNER.check(parameters["inner"], f"{key}.inner")

    def readings(self, round_: Round, client: int, samples: int) -> Iterator[tuple[Round, np.ndarray]]:
        """Return the mini-batch of each step, and the round with the step's number, which seeds what is random in the step."""
        for step in range(self.steps):
            now = replace(round_, step=step)
            yield now, draw_batch(now, client, samples, self.batch_size, self.batches)

    @classmethod
    def evaluations(
        cls, parameters: Mapping[str, Any], full: bool, samples: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the samples of H mini-batches; see `Method.evaluations`."""
        steps: int = parameters["steps"]
        return steps * super().evaluations(parameters, full, samples)

    def message(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Client: x^k - y, after H steps of the inner optimizer from y = x^k, each on a fresh mini-batch."""
        state = task.memory if self.remember_inner else {}
        for name, tensor in state.items():  # restored memory may lie where messages do
            state[name] = tensor.to(oracle.device)
        take_step, y = INNER.bind(self.inner, "method.inner"), task.x.to(oracle.device, copy=True)
        gradient = torch.empty_like(y)
        for now, batch in self.readings(task.round, task.client, oracle.samples(task.client)):
            oracle.gradient(y, task.client, batch, gradient, now)
            take_step(y, gradient, state)
        torch.sub(task.x, out.copy_(y), out=out)
