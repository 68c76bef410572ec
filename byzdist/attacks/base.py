"""What an attack is given, and what it may know."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

from byzdist.randomness import stream
from byzdist.registry import Registry

Attack = Callable[..., Tensor]
ATTACKS: Registry[Attack] = Registry("attack", "now")
F = TypeVar("F", bound=Attack)


@dataclass(frozen=True)
class Situation:
    """What a Byzantine client knows when it is asked for a message.

    Attributes:
        honest: h, what this client would honestly send, before compression; d values that the attack may overwrite and return.
        difference: whether the message is a gradient difference (else a gradient estimate).
        x, previous, start: x^k, x^{k-1} (None where the message is no difference) and x^0.
        cohort: the ids of this round's cohort, ascending.
        colluders: for omniscient attacks, the messages of the cohort's honest clients by id, to be read only; None for the others.
    """

    round: int
    client: int
    seed: int
    honest: Tensor
    difference: bool
    x: Tensor
    start: Tensor
    previous: Tensor | None
    step_size: float
    cohort: np.ndarray
    byzantine: Collection[int]
    colluders: dict[int, Tensor] | None

    def stream(self) -> np.random.Generator:
        """Return the generator of this client's attack in this round."""
        return stream(self.seed, "attack", self.client, self.round)

    @property
    def g(self) -> Tensor:
        """The server's estimate g^{k-1}, as it follows from the two models of a difference round."""
        assert self.previous is not None
        return (self.previous - self.x).div_(self.step_size)

    @property
    def accomplices(self) -> int:
        """How many of the cohort are Byzantine."""
        return sum(int(client) in self.byzantine for client in self.cohort)


@dataclass(frozen=True)
class Envelope:
    """A finished reply, which a fault on the wire may replace.

    Attributes:
        message: header and payload, uint8; a fault returns something else instead of writing here.
        earlier: this client's last message before this one, None before the first.
    """

    round: int
    client: int
    seed: int
    message: Tensor
    earlier: Tensor | None


def omniscient(attack: F) -> F:
    """Mark an attack that needs the honest vectors of its cohort, which it gets through the collusion channel."""
    attack.omniscient = True  # type: ignore[attr-defined]
    return attack


def on_wire(attack: F) -> F:
    """Mark an attack that is given the finished reply, an `Envelope`, and returns what is sent in its place."""
    attack.on_wire = True  # type: ignore[attr-defined]
    return attack


def on_labels(attack: F) -> F:
    """Mark an attack that acts on the data: the client's labels are flipped (y -> L-1-y)."""
    attack.on_labels = True  # type: ignore[attr-defined]
    return attack


def on_process(attack: F) -> F:
    """Mark an attack that acts on the worker process and leaves the message as it is."""
    attack.on_process = True  # type: ignore[attr-defined]
    return attack
