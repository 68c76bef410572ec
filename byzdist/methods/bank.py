"""A bank of momenta on the server: it aggregates those of all clients, whether they were asked in this round or not."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from byzdist.methods.base import Method, Sizes
from byzdist.methods.estimates import SGD
from byzdist.rounds import Messages

_BANK, _KNOWN = "_bank", "_known"


@dataclass(kw_only=True)
class Bank(SGD):
    """The server keeps a momentum m_i of each of the n clients, with p = C/n and a ``weight`` α for fresh gradients.

    In every round m_i becomes (1 - αp) m_i, plus α·(the gradient that i sent) if i replied. All m_i go to the rule, with B of n
    declared, so hostile clients stay a minority even in rounds in which they are most of the cohort. Clients send mini-batch
    gradients and remember nothing.

    A full round, such as round 0, fills the bank with the gradients that come. A client that does not reply then is left out until
    its first reply, which becomes its row. With ``g0: zero`` the run starts with a sampled round, and all rows are 0. A round to
    which too few clients reply changes nothing.

    The bank takes n·d values of the server's memory and of each checkpoint.
    """

    g0: Literal["full", "zero"] = "full"

    keeps_bank = True

    @property
    @abstractmethod
    def weight(self) -> float:
        """The weight α of a fresh gradient."""

    def resolved(self, sizes: Sizes) -> Method:
        """Fill in C and Ĉ, and mark the clients whose rows are known."""
        made = super().resolved(sizes)
        made.state[_KNOWN] = torch.full((sizes.clients,), self.g0 == "zero")
        return made

    @property
    def starts_full(self) -> bool:
        """Whether round 0 fills the bank with gradients."""
        return self.g0 == "full"

    def late_factor(self, age: int, share: float) -> float:
        """Return (1 - αp)^age, as the row would have decayed since."""
        return (1 - self.weight * share) ** age

    def rows(self, g: Tensor, received: Messages, level: float | None) -> Tensor:
        """Server: the momenta of all clients that are known, or with a level their deviations from g^{k-1}, to be clipped."""
        known = self.state[_KNOWN]
        if _BANK not in self.state:
            self.state[_BANK] = received.rows.new_zeros(len(known), received.rows.shape[1])
        bank = self.state[_BANK]
        if received.round.full:
            known.fill_(False)
        else:
            bank.mul_(1 - self.weight * self.cohort / len(known))
        before = known.tolist()
        for client, row in zip(received.clients, received.rows, strict=True):
            if before[client]:
                bank[client].add_(row, alpha=self.weight)
            else:
                bank[client].copy_(row)
            bank[client].nan_to_num_()  # sums of huge values overflow, and rules want finite rows
        known[received.clients] = True
        rows = bank if known.all() else bank[known]
        return rows if level is None else rows - g
