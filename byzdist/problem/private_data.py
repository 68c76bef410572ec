"""Samples that are a client's own, on the host of its worker: no other process ever reads them."""

import logging
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from byzdist.errors import ConfigError, describe_error
from byzdist.problem.client_data import ClientData, PooledData, Positions
from byzdist.problem.data import Dataset, Prepared
from byzdist.problem.data.ahead import ReadJob
from byzdist.problem.data.arrays import as_arrays, outputs
from byzdist.problem.data.generators import draw_seeds, global_generators
from byzdist.problem.data.lazy import as_lazy, is_lazy, prepare_lazy
from byzdist.problem.data.reader import Reader
from byzdist.problem.dataset_data import undivided_data
from byzdist.problem.loss import Loss
from byzdist.problem.task import Batch
from byzdist.randomness import stream
from byzdist.registry import Registry, Spec
from byzdist.rounds import Round

log = logging.getLogger(__name__)
_advice = logging.getLogger("byzdist.config.checks.data")  # only the server shows its messages, see logs
COMMON = ("where", "features", "outputs", "samples")
"""The keys of a private data section that are not parameters of the function, and are the same on every rank."""
PRIVATE: Registry[Callable[..., Any]] = Registry("function for private data", "client")
"""Nothing is registered here: private data come from a function of the user's own, ``module:name``."""


def is_private(spec: Spec) -> bool:
    """Return whether a data section is about data that lie with the workers."""
    return spec.parameters.get("where") == "worker"


def known(spec: Spec, dtype: str) -> Dataset:
    """Return what every rank knows of private data: the shape of a sample's features and the number of outputs, and no samples."""
    shape = feature_shape(spec)
    none = np.zeros(0, np.int64)
    return Dataset("private", np.zeros((0, *shape), dtype), none, None, None, spec.parameters.get("outputs", 0))


def feature_shape(spec: Spec) -> tuple[int, ...]:
    """Return the configured shape of one sample's features; () if none is configured."""
    given = spec.parameters.get("features", [])
    return (given,) if isinstance(given, int) else tuple(given)


class PrivateData(ClientData):
    """The samples of the clients that live in this process; a process that loads none, such as the server, has none.

    Args:
        spec: the data section.
        known: what every rank knows of them.
        loss: says what samples must be, on which device, and how many are taken at once.
        flipped: clients that see label L-1-y in place of y.
    """

    def __init__(self, spec: Spec, known: Dataset, loss: Loss, flipped: Collection[int]) -> None:
        self._spec, self._known, self._loss, self._flipped = spec, known, loss, flipped
        self._held: dict[int, PooledData] = {}

    def load(self, clients: Iterable[int]) -> None:
        """Call the user's function, once for each of these clients.

        Raises:
            ConfigError: for a function or parameters that do not fit, a function that fails, or data that differ from the configuration.
        """
        spec = PRIVATE.check(self._spec.without(*COMMON, "workers"), "data")
        function = PRIVATE.bind(spec, "data")
        for client in clients:
            try:
                seeds = draw_seeds(stream(0, "data", client))
                with global_generators(seeds):  # random_split, say, is then the same after a restart
                    returned = function(client)
            except (ConfigError, MemoryError):
                raise
            except (Exception, SystemExit) as error:  # a user's own function may raise anything
                raise ConfigError(
                    f"data: {spec.name!r} ended for client {client} with {describe_error(error)}."
                ) from error
            self._held[client] = self._taken(returned, f"{spec.name} of client {client}", client)

    def of(self, client: int) -> PooledData:
        """Return the samples of a client that lives here."""
        assert client in self._held, f"the data of client {client} are not in this process"
        return self._held[client]

    def readers(self) -> list[Reader]:
        """Return the readers of this worker's clients whose samples are not in memory."""
        return [reader for data in self._held.values() for reader in data.readers()]

    def _taken(self, returned: Any, name: str, client: int) -> PooledData:
        loss, task, known = self._loss, self._loss.task, self._known
        dtype = str(loss.dtype).removeprefix("torch.")
        dataset: Prepared
        if is_lazy(returned):
            given = replace(as_lazy(returned), test=None)
            given = replace(given, outputs=given.outputs or known.classes or None)
            first_of_all = log if not self._held else _advice
            dataset = prepare_lazy(given, name, "private", dtype, task, first_of_all)
            found = max(dataset.classes, int(dataset.labels.max()) + 1 if dataset.labels.dtype.kind == "i" else 0)
        else:
            arrays = as_arrays(returned, name, np.dtype(dtype), task, whole=False)
            dataset = Dataset(name, arrays["features"], arrays["labels"], None, None, known.classes)
            found = outputs(arrays, task)
        shape, wanted, classes = dataset.feature_shape, known.feature_shape, known.classes
        if wanted and shape != wanted:
            raise ConfigError(
                f"data.features: {name} has features of shape {list(shape)}, and {list(wanted)} is configured."
            )
        if classes and (found > classes if task.target in ("classes", "tokens") else found not in (0, classes)):
            raise ConfigError(f"data.outputs: {name} needs {found} outputs, and {classes} are configured.")
        own, flipped = replace(dataset, classes=classes), {client} & set(self._flipped)
        return undivided_data(own, loss.device, loss.dtype, loss.chunk(prod(shape)), flipped)

    def samples(self, client: int) -> int:
        """Return how many samples a client holds."""
        return self.of(client).samples(client)

    def shared(self, client: int) -> Hashable | None:
        """Return None: each client has samples of its own."""
        return None

    def jobs(self, client: int, positions: Positions | None, round_: Round) -> Iterable[ReadJob]:
        """Return the jobs for a call of `batches`."""
        return self.of(client).jobs(client, positions, round_)

    def batches(self, client: int, positions: Positions | None, round_: Round) -> Iterable[tuple[Batch, int]]:
        """Return a client's samples in batches."""
        return self.of(client).batches(client, positions, round_)
