"""Samples that are a client's own, on the host of its worker: nobody else ever reads them."""

from collections.abc import Callable, Collection, Hashable, Iterable
from math import prod
from typing import Any

import numpy as np

from byzdist.errors import ConfigError, told
from byzdist.problem.client_data import ArrayData, ClientData, Positions
from byzdist.problem.data import Dataset, Split
from byzdist.problem.data.arrays import as_arrays, outputs
from byzdist.problem.data.lazy import is_lazy, read_whole
from byzdist.problem.loss import Loss
from byzdist.problem.task import Batch
from byzdist.registry import Registry, Spec
from byzdist.rounds import Round

COMMON = ("where", "features", "outputs", "samples")
"""The keys of a private data section that are not the function's own, and the same on every rank."""
PRIVATE: Registry[Callable[..., Any]] = Registry("function for private data", "client")
"""Nothing is registered here: whoever has data of their own has a function of their own, ``module:name``."""


def is_private(spec: Spec) -> bool:
    """Return whether a data section is about data that lie with the workers."""
    return spec.parameters.get("where") == "worker"


def known(spec: Spec, dtype: str) -> Dataset:
    """Return what every rank knows of private data: the shape of a sample's features and the number of outputs, and no samples."""
    shape = feature_shape(spec)
    none = np.zeros(0, np.int64)
    return Dataset("private", np.zeros((0, *shape), dtype), none, None, None, spec.parameters.get("outputs", 0))


def feature_shape(spec: Spec) -> tuple[int, ...]:
    """Return the shape of one sample's features as it is configured; () where it is not."""
    given = spec.parameters.get("features", [])
    return (given,) if isinstance(given, int) else tuple(given)


class PrivateData(ClientData):
    """The samples of the clients that live in this process; a process that loads none, such as the server, knows none.

    Args:
        spec: the data section.
        known: what every rank knows of them.
        loss: says what samples are to be, where they are to lie, and how many are taken at once.
        flipped: clients that see label L-1-y in place of y.
    """

    def __init__(self, spec: Spec, known: Dataset, loss: Loss, flipped: Collection[int]) -> None:
        self._spec, self._known, self._loss, self._flipped = spec, known, loss, flipped
        self._held: dict[int, ArrayData] = {}

    def load(self, clients: Iterable[int]) -> None:
        """Call the user's function, once for each of these clients.

        Raises:
            ConfigError: a function or parameters that do not fit, a function that fails, or data that are not what was configured.
        """
        spec = PRIVATE.check(self._spec.without(*COMMON), "data")
        function = PRIVATE.bind(spec, "data")
        for client in clients:
            try:
                returned = function(client)
            except (ConfigError, MemoryError):
                raise
            except (Exception, SystemExit) as error:  # whatever a user's own function raises
                raise ConfigError(f"data: {spec.name!r} ended for client {client} with {told(error)}.") from error
            self._held[client] = self._taken(returned, f"{spec.name} of client {client}", client)

    def of(self, client: int) -> ArrayData:
        """Return the samples of a client that lives here."""
        assert client in self._held, f"the data of client {client} are not in this process"
        return self._held[client]

    def _taken(self, returned: Any, name: str, client: int) -> ArrayData:
        loss, known = self._loss, self._known
        dtype = str(loss.dtype).removeprefix("torch.")
        if is_lazy(returned):
            returned = read_whole(returned, name, dtype, loss.task)
        arrays = as_arrays(returned, name, np.dtype(dtype), loss.task, whole=False)
        features, targets = arrays["features"], arrays["labels"]
        shape, wanted = features.shape[1:], known.feature_shape
        if wanted and shape != wanted:
            raise ConfigError(
                f"data.features: {name} has features of shape {list(shape)}, and {list(wanted)} is configured."
            )
        found, classes = outputs(arrays, loss.task), known.classes
        counts_classes = loss.task.target in ("classes", "tokens")
        if classes and (found > classes if counts_classes else found not in (0, classes)):
            raise ConfigError(f"data.outputs: {name} needs {found} outputs, and {classes} are configured.")
        dataset = Dataset(name, features, targets, None, None, classes)
        split = Split(len(targets), 1, None)
        flipped = {client} & set(self._flipped)
        return ArrayData(
            dataset,
            split,
            device=loss.device,
            dtype=loss.dtype,
            chunk=loss.chunk(prod(shape)),
            flipped=flipped,
        )

    def samples(self, client: int) -> int:
        """Return how many samples a client holds."""
        return self.of(client).samples(client)

    def shared(self, client: int) -> Hashable | None:
        """Return None: each client has samples of its own."""
        return None

    def batches(self, client: int, positions: Positions | None, round_: Round) -> Iterable[tuple[Batch, int]]:
        """Return a client's samples in batches."""
        return self.of(client).batches(client, positions, round_)
