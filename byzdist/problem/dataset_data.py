"""The samples of clients, read when they are needed; and the choice between these and arrays."""

from collections.abc import Collection, Iterator

import numpy as np
import torch

from byzdist.problem.client_data import ArrayData, PooledData, Positions, parts
from byzdist.problem.data import Dataset, LazyDataset, Prepared, Split
from byzdist.problem.data.ahead import ReadJob
from byzdist.problem.data.reader import Reader, cast
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
        """Return a client's samples in batches of at most ``chunk``, each read when it is needed, or ahead."""
        for batch, samples in self._read(self.jobs(client, positions, round_)):
            if client in self.flipped:
                inputs, targets = batch
                batch = inputs, self.classes - 1 - targets
            yield batch, samples

    def readers(self) -> list[Reader]:
        """Return the reader of the samples."""
        return [self._reader]

    def blocks(self, indices: Positions | None) -> Iterator[tuple[Batch, int]]:
        """Return the samples at these places (None: all) in batches of at most ``chunk``."""
        return self._read(self._cut(indices, stream(0, "evaluation reading"), "the server"))

    def jobs(self, client: int, positions: Positions | None, round_: Round) -> Iterator[ReadJob]:
        """Return the jobs for a call of `batches`, one for each batch."""
        alike = positions is None and self.split.count > 1
        generator = round_.rng("reading", self.split.shard(client) if alike else client)
        return self._cut(self.indices(client, positions), generator, f"client {client}")

    def _cut(self, indices: Positions | None, generator: np.random.Generator, whose: str) -> Iterator[ReadJob]:
        total = self.split.samples if indices is None else len(indices)
        for start, end in parts(total, self.chunk):
            part = list(range(start, end)) if indices is None else indices[start:end].tolist()
            yield self._reader.job(part, generator, whose)

    def _read(self, jobs: Iterator[ReadJob]) -> Iterator[tuple[Batch, int]]:
        if self._reader.ahead is None:
            for job in jobs:
                yield cast(self._reader.read(job), device=self.device), len(job.indices)
        else:
            for job, batch in self._reader.ahead.batches(jobs):
                yield cast(batch, device=self.device), len(job.indices)


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


def undivided_data(
    dataset: Prepared, device: torch.device, dtype: torch.dtype, chunk: int, flipped: Collection[int] = ()
) -> PooledData:
    """Return a whole prepared data set as the samples of one holder; arguments as for `ArrayData`."""
    alone = Split(len(dataset.labels), 1, None)
    return pooled_data(dataset, alone, device=device, dtype=dtype, chunk=chunk, flipped=flipped)
