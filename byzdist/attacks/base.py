"""The interface of an attack: what it is given, what it may know, and what it returns.

An attack is a function of a `Context`, called in the worker's process each time its client is asked for a message.

Args:
    now: the `Context`; for an attack that is `on_wire`, the `Envelope` of the finished reply.

Returns:
    The vector to send in place of the honest one, before compression: d values of the dtype and on the device of ``now.honest``.
    It may be that tensor itself, overwritten. Any values are allowed, also NaN. An attack that is `on_wire` returns the message
    instead, uint8 and of any size.

Raises:
    Exception: an exception of a user's own attack is a mistake, and ends the run. To end its own process only, see `crash`.

Example:
    >>> import torch
    >>> from byzdist.attacks import Context
    >>> from byzdist.compression.identity import Identity
    >>> from byzdist.rounds import Round
    >>> def push(now: Context, *, strength: float = 1.0) -> torch.Tensor:
    ...     "Send the negative of the server's last estimate."
    ...     return now.g.mul_(-strength)
    >>> x, honest = torch.tensor([1.0, 2.0]), torch.zeros(2)
    >>> now = Context(
    ...     round=Round(number=1, seed=0), client=4, honest=honest, difference=True,
    ...     x=x, previous=torch.tensor([2.0, 2.0]), start=x, step_size=0.5, clients=5, byzantine=[4], f=1,
    ...     colluders=None, rule=None, pre=None, clip=lambda g: None, compressor=Identity(),
    ... )
    >>> push(now, strength=3.0)
    tensor([-6., -0.])
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from byzdist.compression import Compressor
from byzdist.registry import Registry, Spec
from byzdist.rounds import Memory, Round

Attack = Callable[..., Tensor]
ATTACKS: Registry[Attack] = Registry("attack", "now")
F = TypeVar("F", bound=Attack)


@dataclass(frozen=True)
class Context:
    """What a Byzantine client knows when it is asked for a message: the content of its request, and the run's configuration.

    Attributes:
        honest: h, what this client would honestly send, before compression; d values that the attack may overwrite and return. If
            the method keeps copies, it is the client's copy with that added, and so are the ``colluders``; the copy is then
            subtracted from what the attack returns.
        difference: whether the message is a gradient difference (else a gradient estimate).
        x, previous, start: x^k, x^{k-1} (None if no difference is asked for, unless the attack is `knows_estimate`) and x^0.
        step_size, last_step: γ_k, the next step, and γ_{k-1}, the step that led to x^k (None: the same).
        weight_decay: w in x^k = (1 - γ_{k-1} w) x^{k-1} - γ_{k-1} g^{k-1}.
        clients, byzantine: n, and the ids of all attackers.
        f: the number of Byzantine clients that the server assumes in the cohort.
        colluders: for `omniscient` attacks, the messages of the cohort's honest clients by id, read-only; None for other attacks.
        rule, pre: for attacks that are `knows_rule`, the server's rule and the steps before it; None for other attacks.
        clip: maps g^{k-1} to the clipping level of a sampled round, see `level`.
        compressor: the run's compressor, see `delivered`.
        compressed: the compressor's memory of this client.
        memory: for attacks that are `remembering`, the attack's memory of this client, to be read and written.
    """

    round: Round
    client: int
    honest: Tensor
    difference: bool
    x: Tensor
    start: Tensor
    previous: Tensor | None
    step_size: float
    clients: int
    byzantine: Collection[int]
    f: int
    colluders: dict[int, Tensor] | None
    rule: Spec | None
    pre: Sequence[Spec] | None
    clip: Callable[[Tensor], float | None]
    compressor: Compressor
    last_step: float | None = None
    weight_decay: float = 0.0
    compressed: Memory = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)

    def stream(self) -> np.random.Generator:
        """Return the random generator of this client's attack in this round."""
        return self.round.rng("attack", self.client)

    @property
    def full(self) -> bool:
        """Whether this is a full round, whose messages are neither compressed nor clipped."""
        return self.round.full

    @property
    def cohort(self) -> np.ndarray:
        """The ids of this round's cohort, ascending."""
        return self.round.cohort

    @property
    def g(self) -> Tensor:
        """The server's estimate g^{k-1}, computed from the two models and exact up to their rounding; 0 before the first estimate."""
        if self.round.number == 0:
            return torch.zeros_like(self.x)
        assert self.previous is not None, "outside of difference rounds only attacks that are knows_estimate know g"
        g = (self.previous - self.x).div_(self.last_step or self.step_size)
        return g.sub_(self.previous, alpha=self.weight_decay) if self.weight_decay else g

    @property
    def level(self) -> float | None:
        """The norm to which the server clips the message, a difference or an estimate's deviation from g; None: no clipping."""
        return None if self.full or self.round.number == 0 else self.clip(self.g)

    def delivered(self, vector: Tensor) -> Tensor:
        """Return what the server decodes if ``vector`` [d] is sent: with rand_k, zeros except at the coordinates of this client."""
        payload = torch.zeros(
            self.compressor.length(len(vector), vector.dtype), dtype=torch.uint8, device=vector.device
        )
        held = {name: tensor.clone() for name, tensor in self.compressed.items()}
        self.compressor.encode(vector, payload, self.round, self.client, held)
        read = torch.empty_like(vector)
        self.compressor.decode(payload, read, self.round, self.client, {})
        return read

    @property
    def accomplices(self) -> int:
        """The number of Byzantine clients in the cohort."""
        return sum(int(client) in self.byzantine for client in self.cohort)


@dataclass(frozen=True)
class Envelope:
    """A finished reply, which a fault on the wire may replace.

    Attributes:
        message: header and payload, uint8; a fault must not write to it, but may return another message.
        earlier: this client's previous message, None before the first.
    """

    round: Round
    client: int
    message: Tensor
    earlier: Tensor | None


def _marked(attack: F, mark: str) -> F:
    setattr(attack, mark, True)
    return attack


def omniscient(attack: F) -> F:
    """Mark an attack that needs the honest vectors of its cohort; it gets them through the collusion channel."""
    return _marked(attack, "omniscient")


def knows_estimate(attack: F) -> F:
    """Mark an attack that needs g^{k-1} in every round: each of its requests has x^{k-1}, like all requests of difference rounds."""
    return _marked(attack, "knows_estimate")


def knows_rule(attack: F) -> F:
    """Mark an attack that knows the server's rule and the steps before it."""
    return _marked(attack, "knows_rule")


def remembering(attack: F) -> F:
    """Mark an attack that keeps something from round to round in ``memory``, which is then part of checkpoints."""
    return _marked(attack, "remembering")


def on_wire(attack: F) -> F:
    """Mark an attack that is given the finished reply, an `Envelope`, and returns the bytes to send instead."""
    return _marked(attack, "on_wire")


def on_labels(attack: F) -> F:
    """Mark an attack that acts on the data: the client's labels are flipped (y -> L-1-y)."""
    return _marked(attack, "on_labels")


def on_process(attack: F) -> F:
    """Mark an attack that acts on the worker process and does not change the message."""
    return _marked(attack, "on_process")
