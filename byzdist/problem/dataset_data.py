"""The samples of clients, read when they are needed; and the choice between these and arrays."""

from collections.abc import Collection, Iterator

import numpy as np
import torch

from byzdist.problem.client_data import ArrayData, PooledData, Positions
from byzdist.problem.data import Dataset, LazyDataset, Prepared, Split
from byzdist.problem.data.lazy import cast
from byzdist.problem.task import Batch
from byzdist.randomness import stream
from byzdist.rounds import Round


class DatasetData(PooledData):
    """Samples of a data set that is read lazily.

    What is random in reading depends on seed, client and round, so both points of a difference see one batch, and a restart changes
    nothing. For all of a client's samples, the client in the seed is the first one that holds them: so clients with the same
    samples have the same full gradient, which is computed once. The server reads for its evaluations with the same draws each time.

    Args:
        split: who holds which samples.
        device: batches are moved there.
        dtype: of floating-point numbers.
        chunk: the largest number of samples in a batch.
        flipped: clients that see label L-1-y in place of y (the label flipping attack).
    """

    def __init__(
        self,
        dataset: LazyDataset,
        split: Split,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        chunk: int = 256,
        flipped: Collection[int] = (),
    ) -> None:
        super().__init__(split, dataset.classes, device, dtype, chunk, flipped)
        self._reader = dataset.reader

    def batches(self, client: int, positions: Positions | None, round_: Round) -> Iterator[tuple[Batch, int]]:
        """Return a client's samples in batches of at most ``chunk``, each read when its turn comes."""
        generator = round_.rng("reading", self.split.shard(client) if positions is None else client)
        for batch, samples in self._read(self.indices(client, positions), generator, f"client {client}"):
            if client in self.flipped:
                inputs, targets = batch
                batch = inputs, self.classes - 1 - targets
            yield batch, samples

    def blocks(self, indices: Positions | None) -> Iterator[tuple[Batch, int]]:
        """Return the samples at these places (None: all) in batches of at most ``chunk``."""
        return self._read(indices, stream(0, "evaluation reading"), "the server")

    def _read(
        self, indices: Positions | None, generator: np.random.Generator, whose: str
    ) -> Iterator[tuple[Batch, int]]:
        listed = range(self.split.samples) if indices is None else indices.tolist()
        for start in range(0, len(listed), self.chunk):
            part = listed[start : start + self.chunk]
            yield cast(self._reader.read(part, generator, whose), device=self.device), len(part)


def pooled_data(
    dataset: Prepared,
    split: Split,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    chunk: int = 256,
    flipped: Collection[int] = (),
) -> PooledData:
    """Return the clients' samples of a prepared data set, arrays or read lazily; arguments as for `ArrayData`."""
    if isinstance(dataset, Dataset):
        return ArrayData(dataset, split, device=device, dtype=dtype, chunk=chunk, flipped=flipped)
    return DatasetData(dataset, split, device=device, dtype=dtype, chunk=chunk, flipped=flipped)
