"""A round as one value: its number and kind, who is asked, and what comes back."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from byzdist.randomness import stream

Memory = dict[str, Tensor]
"""What one piece of a run remembers from round to round, by names of its own; empty at first, and part of every checkpoint."""
_NOBODY = np.arange(0)


@dataclass(frozen=True, eq=False)
class Round:
    """One round of a run.

    Attributes:
        number: k, from 0 on.
        seed: the run's.
        full: whether full gradients are asked for, c_k = 1 [BRPP Alg. 1].
        cohort: the ids of the clients that are asked, ascending; nobody before they are drawn.
        step: which of a client's several steps in this round, from 0 on.
    """

    number: int
    seed: int
    full: bool = False
    cohort: np.ndarray = field(default_factory=lambda: _NOBODY)
    step: int = 0

    def rng(self, purpose: str, client: int = 0) -> np.random.Generator:
        """Return the generator of what is random in this round and step for one purpose, and for one client if it is a client's."""
        return stream(self.seed, f"{purpose} {self.step}" if self.step else purpose, client, self.number)


class Payloads(Mapping[int, Tensor]):
    """The payloads of a round's replies by client: uint8, of equal size, the rows of one matrix.

    Args:
        clients: who replied, ascending.
        rows: R x bytes, one contiguous row per client.
    """

    def __init__(self, clients: Iterable[int], rows: Tensor) -> None:
        self._clients, self.rows = list(clients), rows
        assert len(self._clients) == rows.shape[0]

    def __getitem__(self, client: int) -> Tensor:
        if client not in self._clients:
            raise KeyError(client)
        return self.rows[self._clients.index(client)]

    def __iter__(self) -> Iterator[int]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)


@dataclass(frozen=True)
class LateReply:
    """A reply that came after its round.

    Attributes:
        round: the round that asked for it.
        payload: uint8, a copy.
    """

    round: Round
    payload: Tensor


@dataclass(frozen=True)
class Replies:
    """What came back in a round: for each client of the cohort its payload, or why there is none.

    Attributes:
        payloads: by ascending client id; their memory is the transport's and lasts until its next `send`.
        missing: the reason, by client id.
        afresh: the clients whose reply says that they remembered nothing before this round.
        bytes_down, bytes_up: what the server sent and received in the round.
        late: by client, replies to earlier rounds that came since the last `send`, if the transport keeps them.
    """

    payloads: Payloads
    missing: dict[int, str]
    afresh: Set[int]
    bytes_down: int
    bytes_up: int
    late: Mapping[int, LateReply] = field(default_factory=dict)


@dataclass(frozen=True)
class Messages:
    """What the method gets of a round: the decoded vectors of the clients whose replies can be used.

    Attributes:
        clients: their ids, ascending.
        rows: R x d, one row per client; the method may overwrite them.
        afresh: those of the clients that started afresh: what the server kept of them no longer counts, see `Method.keeps_copies`.
    """

    round: Round
    clients: list[int]
    rows: Tensor
    afresh: Set[int] = frozenset()


class ClientMemories:
    """What pieces remember of clients: a `Memory` for each client and each of the ``pieces`` that remember anything."""

    def __init__(self, pieces: Collection[str]) -> None:
        self._pieces = pieces
        self._held: dict[tuple[str, int], Memory] = {}

    def of(self, piece: str, client: int) -> Memory:
        """Return what a piece remembers of a client, to be read and written; only the ``pieces`` keep what they write."""
        return self._held.setdefault((piece, client), {}) if piece in self._pieces else {}

    def knows(self, client: int, pieces: Collection[str]) -> bool:
        """Return whether any of these pieces remembers anything of a client."""
        return any(self._held.get((piece, client)) for piece in pieces)

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it, as live tensors by names of the form ``<piece>.<name>.<client>``."""
        return {
            f"{piece}.{name}.{client}": tensor
            for (piece, client), memory in self._held.items()
            for name, tensor in memory.items()
        }

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore what `tensors` returned, on a device, and forget everything else."""
        self._held.clear()
        for key, tensor in tensors.items():
            piece, _, rest = key.partition(".")
            name, _, client = rest.rpartition(".")
            self.of(piece, int(client))[name] = tensor.to(device, copy=True)
