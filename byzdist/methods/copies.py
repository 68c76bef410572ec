"""Copies: the server holds a vector g_i of each client, the client holds the same, and messages say how they change."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from byzdist.errors import ConfigError
from byzdist.methods.base import ClientTask, ClipFactor, Method, Sizes
from byzdist.registry import RunFacts
from byzdist.rounds import Memory, Messages, Round

_COPY, _ROUND = "copy", "round"  # in a client's memory: g_i, and the round of its last message
_BANK, _KNOWN = "bank", "known"  # in the server's: all g_i, and which clients have one


def follows(task: ClientTask) -> bool:
    """Return whether the client was asked in the round before as well, so that it knows x^{k-1}; note that it is asked in this one."""
    last = task.memory.get(_ROUND)
    task.memory[_ROUND] = torch.tensor(task.round.number)
    return last is not None and int(last) == task.round.number - 1


@dataclass(kw_only=True)
class Copies(Method):
    """What methods with copies have in common: g_i += what the server decodes of i's message; g = A(g_1, ..., g_n).

    All clients are asked in every round. The row of one that does not reply stays as it is. The server takes every usable message,
    even if too few came to change g.

    Both copies stay equal, bit for bit: a client adds what the server decodes, and a client whose message the server may not have
    taken starts afresh. The next request tells it so: its copy is 0 again, and its message replaces the server's row. The same
    happens if a client says that it has lost its memory. The metrics name these clients.

    An attack acts on the client's estimate, g_i + the honest message; what is sent is the difference of the attack's vector from
    g_i over 1 + ω, compressed like any other. So bit_flip makes -g_i, alie the honest mean minus z deviations;
    with a noisy compressor it takes some rounds.

    The server's rows take n·d values of its memory and of each checkpoint; each client's memory takes d values for g_i.
    """

    cohort: Annotated[int, Ge(1)] | None = None  # type: ignore[assignment]
    clip: ClipFactor = "none"

    needs_every_client = True
    clients_remember = True
    keeps_bank = True
    keeps_copies = True

    @classmethod
    def check_run(cls, run: RunFacts, key: str, **parameters: Any) -> None:
        """Refuse clipping by the server, besides what every method refuses."""
        super().check_run(run, key, **parameters)
        if parameters["clip"] != "none":
            raise ConfigError(f"{key}.clip: this method's server does not clip; leave the key out.")

    def resolved(self, sizes: Sizes) -> Method:
        """Fill in C = Ĉ = n, and mark the clients that have a g_i: none, or all if g_i^0 = 0."""
        made = super().resolved(sizes)
        made.state[_KNOWN] = torch.full((sizes.clients,), not self.starts_full)
        return made

    def share(self, message: Tensor) -> Tensor:
        """Return the part of a decoded message that is added to g_i, by default all of it."""
        return message

    def copy(self, task: ClientTask) -> Tensor:
        """Return the client's g_i, 0 at first, and when it starts afresh."""
        if task.afresh or _COPY not in task.memory:
            task.memory[_COPY] = torch.zeros_like(task.x)
        return task.memory[_COPY]

    def copy_of(self, memory: Memory) -> Tensor | None:
        """Return the g_i of the last message."""
        return memory[_COPY]

    def note_sent(self, memory: Memory, decoded: Tensor) -> None:
        """Client: g_i += the message, as the server decodes it."""
        memory[_COPY].add_(self.share(decoded))

    def rows(self, g: Tensor, received: Messages, level: float | None) -> Tensor:
        """Server: g_i += the message of i, for each one that came; return every g_i that is known."""
        known = self.state[_KNOWN]
        if _BANK not in self.state:
            self.state[_BANK] = received.rows.new_zeros(len(known), received.rows.shape[1])
        bank, largest = self.state[_BANK], torch.finfo(received.rows.dtype).max
        for client, message in zip(received.clients, received.rows, strict=True):
            if client in received.afresh:
                bank[client].zero_()
            # Finite messages may add up to infinity. Such a client's own copy is infinite, so its next message is not used.
            bank[client].add_(self.share(message)).clamp_(-largest, largest)
        known[received.clients] = True
        return bank if known.all() else bank[known]

    def apply(self, g: Tensor, aggregated: Tensor, round_: Round, level: float | None) -> None:
        """Server: g = A(g_1, ..., g_n)."""
        g.copy_(aggregated)
