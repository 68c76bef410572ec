"""A round as a value, which travels whole: which one it is, of which kind, who is asked, and what comes back."""

from collections.abc import Set
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from byzdist.randomness import stream


@dataclass(frozen=True, eq=False)
class Round:
    """One round of a run.

    Attributes:
        number: k, from 0 on.
        seed: the run's.
        full: whether full gradients are asked for, c_k = 1 [BRPP Alg. 1].
        cohort: the ids of the clients that are asked, ascending; nobody before they are drawn.
    """

    number: int
    seed: int
    full: bool = False
    cohort: np.ndarray = field(default_factory=lambda: np.arange(0))

    def rng(self, purpose: str, client: int = 0) -> np.random.Generator:
        """Return the generator of what is random in this round for one purpose, and for one client where it is a client's."""
        return stream(self.seed, purpose, client, self.number)


@dataclass(frozen=True)
class Replies:
    """What came back in a round: of each client of the cohort its payload, or why there is none.

    Attributes:
        payloads: uint8, by ascending client id; their memory is the transport's and lasts until its next `send`.
        missing: the reason, by client id.
        afresh: the clients that said with their reply that they had remembered nothing.
        bytes_down, bytes_up: what the round has really sent and received.
    """

    payloads: dict[int, Tensor]
    missing: dict[int, str]
    afresh: Set[int]
    bytes_down: int
    bytes_up: int
