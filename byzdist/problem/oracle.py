"""The client side of the problem: gradients of each client's loss f_i, at one point or two."""

from collections.abc import Hashable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from byzdist.problem.client_data import ClientData, Positions, Wanted
from byzdist.problem.loss import Loss
from byzdist.rounds import ClientMemories, Round

BUFFERS = "buffers"
_NONE = Round(0, 0)


class Oracle:
    """The gradients of clients' losses, with the regularizer. Points and results may be on another device than the module."""

    def __init__(self, loss: Loss, data: ClientData) -> None:
        self.loss, self.data, self._l2 = loss, data, loss.l2
        self.memories = ClientMemories([])  # holds the clients' own buffers, under BUFFERS
        self._round, self._points = _NONE, tuple[Tensor, ...]()
        self._pull: Tensor | None = None  # the regularizer's part of a difference between the points
        self._found: dict[tuple[int, Hashable], Tensor] = {}  # full gradients, by point and samples
        self._rooms: list[Tensor] = []  # buffers on the device, for copies of vectors that lie elsewhere

    @property
    def dimension(self) -> int:
        """The number d of parameters."""
        return self.loss.flat.dimension

    @property
    def device(self) -> torch.device:
        """Where gradients are computed."""
        return self.loss.device

    def initial(self) -> Tensor:
        """Return x^0, as the module was made: a fresh vector [d]."""
        return self.loss.flat.initial()

    def samples(self, client: int) -> int:
        """Return how many samples a client holds."""
        return self.data.samples(client)

    def begin(self, round_: Round, *points: Tensor) -> None:
        """Note the round of the next calls, and the points at which most of them will be; the points must not change in that round.

        The full gradient at such a point is computed once for all clients with the same samples. With shared data, a full
        round of n clients costs a worker one gradient (tests/benchmarks/rounds.py).
        """
        self._round, self._points = round_, points
        self._found.clear()
        self._pull = None

    def expect(self, wanted: Iterable[Wanted]) -> None:
        """Announce the samples of the next gradients, in this order, so that they can be read ahead."""
        self.data.expect(self._distinct(wanted))

    def _distinct(self, wanted: Iterable[Wanted]) -> Iterator[Wanted]:
        """Leave out full gradients that are taken from another client with the same samples."""
        seen = set[tuple[int, Hashable]]()
        for round_, client, batch in wanted:
            samples = self._shared(client) if batch is None else None
            if samples is None or (round_.number, samples) not in seen:
                yield round_, client, batch
            seen.add((round_.number, samples))

    def gradient(
        self, x: Tensor, client: int, batch: Positions | None, out: Tensor, round_: Round | None = None
    ) -> None:
        """Write into out [d] the gradient at x of the client's loss, or of its mean over a mini-batch.

        Args:
            x: the point [d].
            client: whose loss it is.
            batch: positions 0..m-1 among the client's samples, or None for all of them.
            out: overwritten; it must not overlap with x.
            round_: seeds what the module and the reading of samples draw at random; by default the round of `begin`.
        """
        key = self._key(x, client) if batch is None else None
        if key in self._found:
            out.copy_(self._found[key])
            return
        here, there = self._here(x, out)
        torch.mul(here, 2 * self._l2, out=there)
        self._add((here,), client, batch, there, round_)
        if there is not out:
            out.copy_(there)
        if key is not None:
            self._found[key] = out.clone()

    def difference(self, x_new: Tensor, x_old: Tensor, client: int, batch: Positions | None, out: Tensor) -> None:
        """Write into out [d] the gradient at x_new minus the gradient at x_old, both on the same samples.

        Arguments as for :meth:`gradient`; out must not overlap with either point.
        """
        new, old, there = self._here(x_new, x_old, out)
        if self._l2 == 0:
            there.zero_()
        elif len(self._points) == 2 and self._points[0] is x_new and self._points[1] is x_old:
            if self._pull is None:
                self._pull = torch.sub(new, old).mul_(2 * self._l2)
            there.copy_(self._pull)
        else:
            torch.sub(new, old, out=there).mul_(2 * self._l2)
        self._add((new, old), client, batch, there)
        if there is not out:
            out.copy_(there)

    def _add(
        self,
        points: Sequence[Tensor],
        client: int,
        batch: Positions | None,
        out: Tensor,
        round_: Round | None = None,
    ) -> None:
        """Add to out, which holds the regularizer's part, the gradient at the one point or its difference at the two."""
        round_ = round_ or self._round
        scale = 1.0 / (self.data.samples(client) if batch is None else len(batch))
        counted, regularizer = 0.0, None
        self.loss.train(True)
        own = self.memories.of(BUFFERS, client) if self.loss.buffers == "local" else None
        if own is not None:
            self.loss.load_buffers(own)
        seeds = round_.rng("network", client) if self.loss.is_random else None
        for part, samples in self.data.batches(client, batch, round_):
            if regularizer is None and self.loss.is_counted(part):  # divide at the end, when the count is known
                scale, regularizer = 1.0, out.clone()
                out.zero_()
            seed = None if seeds is None else int(seeds.integers(2**63))
            counted += self.loss.add_gradients(points, part, samples, scale, out, seed)
        if own is not None:
            own.update(self.loss.copy_buffers())
        if regularizer is not None:
            out.div_(counted or 1.0).add_(regularizer)  # the count may be 0: a batch of padding, say

    def _key(self, x: Tensor, client: int) -> tuple[int, Hashable] | None:
        """Return what a full gradient depends on; None if no two clients have it in common."""
        place = next((place for place, point in enumerate(self._points) if point is x), None)
        samples = self._shared(client)
        return None if place is None or samples is None else (place, samples)

    def _shared(self, client: int) -> Hashable | None:
        """Return a key that is equal for clients with the same full gradient; None if no other client has this client's."""
        return None if self.loss.is_random or self.loss.buffers == "local" else self.data.shared(client)

    def _here(self, *vectors: Tensor) -> Sequence[Tensor]:
        """Return the vectors themselves, or copies of them on the device, in reused buffers."""
        device = self.loss.device  # with a GPU, messages may lie on another device
        if device.type == "cpu" or all(vector.device == device for vector in vectors):
            return vectors
        while len(self._rooms) < len(vectors):
            self._rooms.append(torch.empty_like(self.initial()))
        return [room.copy_(vector) for room, vector in zip(self._rooms, vectors, strict=False)]
