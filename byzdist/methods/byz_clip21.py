"""Byz-Clip21-SGD2M: clients clip the difference of their momentum from a copy of it, and may add noise for privacy."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from byzdist.methods.base import METHODS, ClientTask
from byzdist.methods.copies import Copies
from byzdist.norms import norm
from byzdist.problem.oracle import Oracle

_V, _NOISE = "v", "noise"  # in a client's memory: v_i, and the noise in the copy

Share = Annotated[float, Gt(0), Le(1)]


@METHODS.register("byz_clip21", "byz_clip21_sgd2m")
@dataclass(kw_only=True)
class ByzClip21(Copies):
    """Byz-Clip21-SGD2M (Islamov et al. 2026): c_i = clip_τ(v_i - g_i) + σ·N(0, I), where v_i is a momentum; the server has m_i += β2 c_i.

    v_i = (1-β1) v_i + β1·(mini-batch gradient), from v_i^0 = g_i^0 = m_i^0 = 0, so the run starts with a sampled round. The client's g_i
    moves by β2 clip_τ(v_i - g_i), so it is the server's m_i without the noise. The rule aggregates the m_i.

    Each client clips its own message, which bounds what one round tells of its data; with ``sigma`` it adds noise, but byzdist does not
    account for privacy. The paper's experiments have β1 = 0.1 and β2 (its β̂) = 0.01. There, messages are not compressed; here they may be,
    by an unbiased compressor.
    """

    tau: Annotated[float, Gt(0)]
    beta1: Share = 0.1
    beta2: Share = 1.0
    sigma: Annotated[float, Ge(0)] = 0.0

    @property
    def starts_full(self) -> bool:
        """No: g^0 = 0."""
        return False

    def share(self, message: Tensor) -> Tensor:
        """Return β2 c_i."""
        return message if self.beta2 == 1 else message * self.beta2

    def message(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Client: clip_τ(v_i - g_i), and noise. Its copy is m_i, as the server's, so g_i is the copy less its noise."""
        oracle.gradient(task.x, task.client, task.batch(oracle.samples(task.client), self.batch_size), out)
        held = task.memory.setdefault(_V, torch.zeros_like(out))
        out.copy_(held.mul_(1 - self.beta1).add_(out, alpha=self.beta1)).sub_(self.copy(task))
        if self.sigma:
            out.add_(self._noise(task))
        if (size := norm(out)) > self.tau:
            out.mul_(self.tau / size)
        if self.sigma:
            drawn = torch.from_numpy(task.round.rng("noise", task.client).standard_normal(len(out)))
            noise = drawn.to(out.device, out.dtype).mul_(self.sigma)
            out.add_(noise)
            task.memory[_NOISE].add_(self.share(noise))

    def _noise(self, task: ClientTask) -> Tensor:
        """Return the noise in the client's copy, 0 where the copy begins at 0."""
        if task.afresh or _NOISE not in task.memory:
            task.memory[_NOISE] = torch.zeros_like(task.x)
        return task.memory[_NOISE]
