"""Who holds which samples.

``holders`` says among whom a split deals out the data: ``honest``, the default, or ``all``. A run minimizes f, the loss of the honest
clients, so f would lack what Byzantine ones held. If the split goes by label, that may be whole classes, or all of a class except one
client's part, which a robust rule may take for an attack. So Byzantine clients get copies of honest clients' shards, as in the
experiments of [BRPP]. With ``all`` each client has data of its own.

A split is a function, called in every process, which must give the same split each time.

Args:
    labels: the targets, int64 [N]; NaN for each sample if they are not classes, or not known before reading.
    count: how many clients hold data of their own.
    generator: the source of its random draws, the same in every process.

Returns:
    The client 0..count-1 that holds each sample, int64 [N], each client at least once; None: every client holds all samples. Anything
    else is a ConfigError.

Example:
    >>> import numpy as np
    >>> def in_turn(labels: np.ndarray, count: int, generator: np.random.Generator, *, skip: int = 1) -> np.ndarray:
    ...     return np.arange(len(labels)) * skip % count
    >>> in_turn(np.zeros(5), 3, np.random.default_rng(0), skip=2)
    array([0, 2, 1, 0, 2])
"""

import csv
import heapq
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray

from byzdist.errors import ConfigError
from byzdist.host.files import replacing
from byzdist.randomness import stream
from byzdist.registry import Named, Registry, Spec

log = logging.getLogger(__name__)

_NOTHING: Mapping[str, Sequence[object]] = MappingProxyType({})

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

    Shards are dealt out so that clients with consecutive ids hold different labels: where the Byzantine clients, the last ones, hold
    data of their own (``holders: all``), the honest ones see every label if there are enough of them.
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

    Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019. Clients hold unequally many samples. One
    without any gets one from the client that then has most.
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
    """Return 0..count-1 in order, each repeated equally often, up to one."""
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
    """The samples of each client: one array of positions in the data set, cut by offsets, so that a shard is found at once.

    The first ``holders`` of ``count`` clients (None: all) hold the data, a shard each, and client ``holders`` + i a copy of client i's.
    """

    def __init__(self, samples: int, count: int, owners: Owners | None, holders: int | None = None) -> None:
        self.samples = samples
        self.count = count
        self._holders = holders = holders or count
        self._positions: NDArray[np.int64] | None = None
        if owners is not None:
            sizes = np.bincount(owners, minlength=holders)
            assert len(sizes) == holders and sizes.min() > 0, "an empty client"
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
        shard = self.shard(client)
        return self._positions[self._offsets[shard] : self._offsets[shard + 1]]

    def size(self, client: int) -> int:
        """Return how many samples a client holds."""
        shard = self.shard(client)
        return self.samples if self._positions is None else int(self._offsets[shard + 1] - self._offsets[shard])

    def shard(self, client: int) -> int:
        """Return an id that is equal for clients with the same samples, whose work can be shared."""
        return 0 if self._positions is None else client % self._holders

    def table(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """Return how many samples of each label each client holds, [clients, classes]."""
        if self._positions is None:
            return np.tile(np.bincount(labels, minlength=classes), (self.count, 1))
        owners = np.repeat(np.arange(self._holders), np.diff(self._offsets))
        cells = np.bincount(owners * classes + labels[self._positions], minlength=self._holders * classes)
        return cells.reshape(self._holders, classes)[np.arange(self.count) % self._holders]


def check_split(named: Named) -> Spec:
    """Check a split section (name, holders and parameters) and return it completed; raise ConfigError naming ``data.split``."""
    spec = Spec.of(named)
    holders = spec.parameters.get("holders", "honest")
    checked = SPLITS.check(spec.without("holders"), "data.split")
    if checked.name == "shared":
        if "holders" in spec.parameters:
            raise ConfigError(
                "data.split.holders: with the split 'shared' all clients hold everything; leave the key out."
            )
        return checked
    if holders not in ("honest", "all"):
        raise ConfigError(f"data.split.holders: should be 'honest' or 'all' (it is {holders!r}).")
    return checked.plus(holders=holders)


def split(named: Named, labels: NDArray[np.int64], count: int, seed: int, byzantine: int = 0) -> Split:
    """Deal a data set with these labels out to ``count`` clients; the same arguments give the same split everywhere.

    The last ``byzantine`` clients get copies of what the others hold, unless ``holders`` is ``all``.

    Raises:
        ConfigError: for a wrong section, or for fewer samples than clients that each need one.
    """
    spec = check_split(named)
    entry = SPLITS.get(spec.name, "data.split")
    if entry in (by_label, dirichlet) and (labels.ndim != 1 or labels.dtype.kind != "i"):
        raise ConfigError(
            f"data.split: {spec.name!r} goes by classes, and the targets are not classes, or not known before they are read (a "
            "Dataset tells them as its `targets`). Use 'iid', or a split of your own."
        )
    holders = count - byzantine if spec.parameters.get("holders") == "honest" else count
    if entry is not shared and holders > len(labels):
        raise ConfigError(
            f"data.split: {spec.name!r} cannot give each of {holders} clients a sample of the {len(labels)}."
            " Use fewer clients or the split 'shared'."
        )
    owners = SPLITS.build(spec.without("holders"), labels, holders, stream(seed, "split"), key="data.split")
    if owners is not None and (
        np.shape(owners) != (len(labels),) or not np.array_equal(np.unique(owners), np.arange(holders))
    ):
        raise ConfigError(
            f"data.split: {spec.name!r} must give each sample to one of {holders} clients, and each of them one."
        )
    return Split(len(labels), count, owners, holders)


def warn_of_rare_classes(table: NDArray[np.int64], honest: int) -> None:
    """Warn of classes that a rule may drop, because at most one of the ``honest`` first clients of a `Split.table` holds them."""
    holders = (table[:honest] > 0).sum(axis=0)
    rare = np.flatnonzero((holders <= 1) & (table.sum(axis=0) > 0)).tolist()
    if honest > 1 and rare:
        log.warning(
            "data.split: at most one honest client holds class %s, and a robust rule may drop what a single client sends. Deal the "
            "data to the honest clients (data.split.holders=honest), to fewer of them, or by another split.",
            ", ".join(map(str, rare)),
        )


def write_table(
    split: Split | None, table: NDArray[np.int64] | None, path: Path, more: Mapping[str, Sequence[object]] = _NOTHING
) -> None:
    """Write as CSV who holds how much, as far as the split and the table of labels are known, and ``more`` columns of all clients."""
    columns: dict[str, Sequence[object]] = {}
    if split is not None:
        columns["samples"] = [split.size(client) for client in range(split.count)]
    if table is not None:
        columns |= {f"label_{label}": column.tolist() for label, column in enumerate(table.T)}
    columns |= more
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["client", *columns])
        writer.writerows((client, *row) for client, row in enumerate(zip(*columns.values(), strict=True)))
