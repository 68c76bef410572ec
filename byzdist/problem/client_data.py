"""The samples of each client, as the batches that its gradients are made of."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Iterator
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from byzdist.problem.data import Dataset, Split
from byzdist.problem.data.ahead import ReadJob
from byzdist.problem.data.reader import Reader
from byzdist.problem.task import Batch
from byzdist.rounds import Round

Positions = NDArray[np.int64]
Wanted = tuple[Round, int, Positions | None]
"""A request to `ClientData.batches`: the round, the client, and the positions of a mini-batch among its samples (None: all)."""
_SMALL = 2**13  # numbers in a batch that numpy gathers faster than torch


class ClientData(ABC):
    """What clients learn from."""

    @abstractmethod
    def samples(self, client: int) -> int:
        """Return how many samples a client holds."""

    @abstractmethod
    def shared(self, client: int) -> Hashable | None:
        """Return a key that is equal for clients that see the very same samples, None for a client with samples of its own."""

    @abstractmethod
    def batches(self, client: int, positions: Positions | None, round_: Round) -> Iterable[tuple[Batch, int]]:
        """Return a client's samples as batches, and how many are in each.

        Args:
            client: whose samples.
            positions: among the client's samples, for one mini-batch; None for all of them.
            round_: seeds what is random in reading.
        """

    def expect(self, wanted: Iterable[Wanted]) -> None:
        """Let the processes that read ahead, if there are any, read the samples of the next calls of `batches`, in this order."""
        ahead = next((reader.ahead for reader in self.readers() if reader.ahead is not None), None)
        if ahead is not None:
            ahead.expect(job for round_, client, positions in wanted for job in self.jobs(client, positions, round_))

    def jobs(self, client: int, positions: Positions | None, round_: Round) -> Iterable[ReadJob]:
        """Return the jobs of reading the samples for a call of `batches` with these arguments; none for samples in memory."""
        return ()

    def readers(self) -> list[Reader]:
        """Return the readers of samples that are not in memory."""
        return []


def parts(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Return where batches of at most ``size`` of ``total`` samples begin and end; the last is never a single sample left over.

    Batch norm cannot train on a single sample, so the batch before gives it another one.
    """
    start = 0
    while start < total:
        end = min(start + size, total)
        end -= end == total - 1 and end - start > 2
        yield start, end
        start = end


class PooledData(ClientData):
    """Samples of one data set, which every process can read; a split says whose they are."""

    def __init__(
        self,
        split: Split,
        classes: int,
        device: torch.device | str,
        dtype: torch.dtype,
        chunk: int,
        flipped: Collection[int],
    ) -> None:
        self.split, self.chunk, self.classes, self.flipped = split, chunk, classes, frozenset(flipped)
        self.device, self.dtype = torch.device(device), dtype

    def samples(self, client: int) -> int:
        """Return how many samples a client holds."""
        return self.split.size(client)

    def shared(self, client: int) -> Hashable | None:
        """Return whether a client's labels are flipped, if all hold the whole data set."""
        return client in self.flipped if self.split.shared else None

    def indices(self, client: int, positions: Positions | None) -> Positions | None:
        """Return where in the data set a client's samples are, or those at some positions among them; None: the whole data set."""
        indices = self.split.indices(client)
        if positions is not None:
            indices = positions if indices is None else indices[positions]
        return indices

    def first(self, count: int) -> tuple[Batch, int]:
        """Return a batch of the first ``count`` samples, or of all if there are fewer, and how many are in it."""
        return next(iter(self.blocks(np.arange(min(count, self.split.samples)))))

    @abstractmethod
    def blocks(self, indices: Positions | None) -> Iterable[tuple[Batch, int]]:
        """Return the samples at these places of the data set (None: all) in batches of at most ``chunk``, and how many are in each."""


class ArrayData(PooledData):
    """Samples in two arrays that all clients share.

    Args:
        split: whose they are.
        device: the arrays are moved there as a whole.
        dtype: of the features, unless they are integers.
        chunk: the largest number of samples in a batch.
        flipped: clients that see label L-1-y in place of y (the label flipping attack).
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        chunk: int = 256,
        flipped: Collection[int] = (),
    ) -> None:
        super().__init__(split, dataset.classes, device, dtype, chunk, flipped)
        features = torch.from_numpy(np.asarray(dataset.features))
        self.features = features.to(device=device, dtype=dtype if features.is_floating_point() else None)
        self.targets = torch.from_numpy(np.asarray(dataset.labels)).to(device)
        self._small = 0
        if self.features.device.type == "cpu":
            self._small = min(chunk, _SMALL // prod(dataset.feature_shape))
            self._arrays = self.features.numpy(), self.targets.numpy()

    def first(self, count: int) -> tuple[Batch, int]:
        """Return copies of the first samples, at most ``count`` and whatever ``chunk`` is, and how many they are."""
        features, targets = self.features[:count].clone(), self.targets[:count].clone()
        return (features, targets), len(targets)

    def batches(self, client: int, positions: Positions | None, round_: Round) -> Iterable[tuple[Batch, int]]:
        """Return a client's samples in batches of at most ``chunk``."""
        blocks = self.blocks(self.indices(client, positions))
        if client not in self.flipped:
            return blocks
        return [((features, self.classes - 1 - targets), samples) for (features, targets), samples in blocks]

    def blocks(self, indices: Positions | None) -> Iterable[tuple[tuple[Tensor, Tensor], int]]:
        """Return the samples at these places of the arrays (None: all) in batches of at most ``chunk``."""
        if indices is not None and len(indices) <= self._small:
            features, targets = self._arrays
            batch = torch.from_numpy(features.take(indices, 0)), torch.from_numpy(targets.take(indices, 0))
            return [(batch, len(indices))]
        return self._blocks(indices)

    def _blocks(self, indices: Positions | None) -> Iterator[tuple[tuple[Tensor, Tensor], int]]:
        total = len(self.targets) if indices is None else len(indices)
        for start, end in parts(total, self.chunk):
            if indices is None:
                yield (self.features[start:end], self.targets[start:end]), end - start
            else:
                there = torch.from_numpy(indices[start:end]).to(self.features.device)
                yield (self.features.index_select(0, there), self.targets.index_select(0, there)), end - start
