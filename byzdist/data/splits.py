"""Who holds which samples."""

import csv
import heapq
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray

from byzdist.errors import ConfigError
from byzdist.randomness import stream
from byzdist.registry import Registry

Owners = NDArray[np.int64]
"""The client that holds each sample, [N]."""

SPLITS: Registry[Callable[..., Owners | None]] = Registry("split", "labels", "count", "generator")


@SPLITS.register("shared")
def shared(labels: NDArray[np.int64], count: int, generator: np.random.Generator) -> None:
    """Every client sees the whole data set."""


@SPLITS.register("iid")
def iid(labels: NDArray[np.int64], count: int, generator: np.random.Generator) -> Owners:
    """A random partition into shards of equal size (up to one sample)."""
    owners = np.empty(len(labels), np.int64)
    owners[generator.permutation(len(labels))] = _even(len(labels), count)
    return owners


@SPLITS.register("by_label")
def by_label(labels: NDArray[np.int64], count: int, generator: np.random.Generator) -> Owners:
    """Samples sorted by label and cut into shards of equal size, so that a client sees one label or two.

    Shards are dealt out so that clients with consecutive ids hold different labels: the Byzantine clients are the
    last ones, and the good ones shall see every label where their number allows it.
    """
    shuffled = generator.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    per_label = -(-count // (int(labels.max()) + 1))
    holder = np.empty(count, np.int64)
    holder[sorted(range(count), key=lambda shard: (shard % per_label, shard))] = np.arange(count)
    owners = np.empty(len(labels), np.int64)
    owners[ordered] = holder[_even(len(labels), count)]
    return owners


@SPLITS.register("dirichlet")
def dirichlet(
    labels: NDArray[np.int64], count: int, generator: np.random.Generator, *, alpha: Annotated[float, Gt(0)]
) -> Owners:
    """Each label is shared out in proportions from a Dirichlet(alpha) law: a small alpha makes clients unlike.

    (Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution", 2019.) A client left empty gets a
    sample of the client that then has most.
    """
    owners = np.empty(len(labels), np.int64)
    for label in range(int(labels.max()) + 1):
        members = generator.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(generator.dirichlet(np.full(count, alpha)))
        places = (np.arange(len(members)) + 0.5) / max(len(members), 1)
        owners[members] = np.minimum(np.searchsorted(ends, places), count - 1)
    _feed_the_empty(owners, count)
    return owners


def _even(samples: int, count: int) -> NDArray[np.int64]:
    """Return 0..count-1, each repeated equally often up to one, in order."""
    return np.arange(samples, dtype=np.int64) * count // samples


def _feed_the_empty(owners: Owners, count: int) -> None:
    sizes = np.bincount(owners, minlength=count)
    largest = [(-int(size), client) for client, size in enumerate(sizes)]
    heapq.heapify(largest)
    held: dict[int, list[int]] = {}
    for client in np.flatnonzero(sizes == 0):
        size, giver = largest[0]
        if giver not in held:
            held[giver] = np.flatnonzero(owners == giver).tolist()
        owners[held[giver].pop()] = client
        heapq.heapreplace(largest, (size + 1, giver))


class Split:
    """The samples of each client: one array of positions in the data set, cut by offsets; a shard is found at once."""

    def __init__(self, samples: int, count: int, owners: Owners | None) -> None:
        self.samples = samples
        self.count = count
        self._positions: NDArray[np.int64] | None = None
        if owners is not None:
            sizes = np.bincount(owners, minlength=count)
            assert len(sizes) == count and sizes.min() > 0, "an empty client"
            self._positions = np.argsort(owners, kind="stable")
            self._offsets = np.concatenate([[0], np.cumsum(sizes)])

    @property
    def shared(self) -> bool:
        """Whether every client holds the whole data set."""
        return self._positions is None

    def indices(self, client: int) -> NDArray[np.int64] | None:
        """Return the positions of a client's samples in the data set, ascending, as a view; None: all of them."""
        if self._positions is None:
            return None
        return self._positions[self._offsets[client] : self._offsets[client + 1]]

    def size(self, client: int) -> int:
        """Return how many samples a client holds."""
        return self.samples if self._positions is None else int(self._offsets[client + 1] - self._offsets[client])

    def shard(self, client: int) -> Hashable:
        """Return an id that is equal for clients with the same samples, whose work can be shared."""
        return 0 if self._positions is None else client

    def table(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """Return how many samples of each label each client holds, [clients, classes]."""
        if self._positions is None:
            return np.tile(np.bincount(labels, minlength=classes), (self.count, 1))
        owners = np.repeat(np.arange(self.count), np.diff(self._offsets))
        cells = np.bincount(owners * classes + labels[self._positions], minlength=self.count * classes)
        return cells.reshape(self.count, classes)


def check_split(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Check a split section (name and parameters) and return it completed; raise ConfigError naming ``data.split``."""
    parameters = {key: value for key, value in spec.items() if key != "name"}
    name = SPLITS.canonical(spec["name"], "data.split")
    return {"name": name, **SPLITS.check(name, parameters, "data.split")}


def split(spec: Mapping[str, Any], labels: NDArray[np.int64], count: int, seed: int) -> Split:
    """Share a data set with these labels out among ``count`` clients; the same arguments give the same split anywhere.

    Raises:
        ConfigError: a wrong section, or fewer samples than clients where each is to have its own.
    """
    parameters = check_split(spec)
    entry = SPLITS.get(parameters.pop("name"), "data.split")
    if entry is not shared and count > len(labels):
        raise ConfigError(
            f"data.split: {spec['name']!r} cannot give each of {count} clients a sample of the {len(labels)}."
            " Use fewer clients or the split 'shared'."
        )
    owners = entry(labels, count, stream(seed, "split"), **parameters)
    if owners is not None and (len(owners) != len(labels) or not np.array_equal(np.unique(owners), np.arange(count))):
        raise ConfigError(
            f"data.split: {spec['name']!r} must give each sample to one of {count} clients, and each of them one."
        )
    return Split(len(labels), count, owners)


def write_table(table: NDArray[np.int64], path: Path) -> None:
    """Write the table of :meth:`Split.table` as CSV: client, samples, and a column for each label."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["client", "samples", *(f"label_{label}" for label in range(table.shape[1]))])
        writer.writerows([client, int(row.sum()), *row.tolist()] for client, row in enumerate(table))
