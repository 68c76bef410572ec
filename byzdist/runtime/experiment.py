"""From a configuration to the pieces of a run, the same in every process."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import inf, prod
from typing import TypeVar

import numpy as np
import torch

from byzdist.attacks.assignment import Assignment, assignments, flipped
from byzdist.compression import COMPRESSORS, Compressor
from byzdist.compression.identity import Identity
from byzdist.config.schema import Config
from byzdist.errors import ConfigError
from byzdist.host.accelerators import link_device
from byzdist.methods import METHODS, Method, Sizes
from byzdist.problem import data, models
from byzdist.problem.client_data import ClientData, PooledData
from byzdist.problem.data import OURS, Dataset, LazyDataset, Prepared, Split
from byzdist.problem.data.reader import read_ahead
from byzdist.problem.dataset_data import pooled_data
from byzdist.problem.evaluation import measured_of
from byzdist.problem.loss import Loss
from byzdist.problem.optimum import can_be_found
from byzdist.problem.oracle import Oracle
from byzdist.problem.private_data import PrivateData, is_private, known
from byzdist.problem.task import Task
from byzdist.problem.tasks import TASKS
from byzdist.problem.trial import try_out, try_single_samples
from byzdist.registry import Registry, Spec
from byzdist.reporting.names import check_metrics
from byzdist.transport.base import Shape

P = TypeVar("P")
_advice = logging.getLogger("byzdist.config.checks.data")  # only the server logs it, see reporting/logs.py


@dataclass(frozen=True)
class Experiment:
    """The pieces of a run.

    Attributes:
        dataset, split: the data that all ranks have, and who holds what; of private data only the shape, without samples.
        data: what clients learn from.
        compressors: what compresses replies, by whether the round is full: nothing does in full rounds (True).
    """

    config: Config
    dataset: Prepared
    split: Split
    data: ClientData
    task: Task
    oracle: Oracle
    method: Method
    compressors: dict[bool, Compressor]
    dtype: torch.dtype
    device: torch.device

    @property
    def _attacks(self) -> list[Assignment]:
        return assignments(self.config.attacks, self.config.clients.byzantine_ids)

    @property
    def clients_remember(self) -> bool:
        """Whether clients keep something from round to round: for method or compressor, or for an attack."""
        return any(self.honest_remember.values()) or any(
            entry.has("on_wire") or entry.has("remembering") for entry in self._attacks
        )

    @property
    def honest_remember(self) -> dict[bool, bool]:
        """Whether honest clients keep something of a full (True) or of a sampled round (False) for later ones."""
        always = self.method.clients_remember or self.oracle.loss.buffers == "local"
        return {full: always or compressor.remembers for full, compressor in self.compressors.items()}

    @property
    def attackers_know_estimate(self) -> bool:
        """Whether requests bring x^{k-1} in every round, because an attack uses it."""
        return any(entry.has("knows_estimate") for entry in self._attacks)

    @property
    def label_table(self) -> np.ndarray | None:
        """How many samples of each class each client holds, [clients, classes]; None if targets are not classes, or not known."""
        if self.task.target != "classes" or self.is_private or self.dataset.labels.dtype.kind != "i":
            return None
        return self.split.table(self.dataset.labels, self.dataset.classes)

    @cached_property
    def validation(self) -> Prepared | None:
        """The server's own set, if it has one. It is loaded at the first use, which is the server's, so workers need not have it."""
        if self.config.validation is None:
            return None
        try:
            found = data.load(self.config.validation, dtype=self.config.dtype, task=self.task)
        except ConfigError as error:
            raise ConfigError(f"validation: {error}") from error
        ours, clients = found.feature_shape, self.dataset.feature_shape
        classes = self.dataset.classes or found.classes  # with private data neither may be known here
        if ours != (clients or ours) or found.classes > classes:
            raise ConfigError(
                f"validation: {self.config.validation.name!r} has features of shape {list(ours)} and {found.classes} classes, the "
                f"clients' data {list(clients)} and {self.dataset.classes}. Give data of one kind."
            )
        return found

    @property
    def is_private(self) -> bool:
        """Whether the data lie with the workers."""
        return isinstance(self.data, PrivateData)

    @property
    def shared_data(self) -> PooledData:
        """The data that every rank has."""
        assert isinstance(self.data, PooledData), "private data are their clients' alone"
        return self.data

    @property
    def claimed(self) -> tuple[str, ...]:
        """What clients measure of the model because the server has no data to do so."""
        return ("loss", *self.task.metrics) if self.is_private and self.config.validation is None else ()

    @property
    def attackers_collude(self) -> bool:
        """Whether attackers read honest clients' messages, which are then shared in a store."""
        return any(entry.has("omniscient") for entry in self._attacks)

    @property
    def links(self) -> torch.device:
        """Where messages lie in this process: see `link_device`."""
        return link_device(self.config.device, self.device, self.config.transport.name)

    def read_ahead(self, *, server: bool = False) -> None:
        """Start `data.workers` processes that read lazy data ahead, also for test sets if the server evaluates."""
        readers, processes = self.data.readers(), self.config.data.parameters.get("workers", 0)
        if server and isinstance(self.dataset, LazyDataset) and self.dataset.test is not None:
            readers.append(self.dataset.test)
        if processes and readers:
            read_ahead(readers, processes)

    def hosted(self, rank: int, workers: int) -> range:
        """Return the clients that a worker's rank hosts."""
        return range(rank - 1, self.config.clients.count, workers)

    def shape(self, workers: int) -> Shape:
        """Return the sizes of the messages for a number of worker ranks."""
        method, clients, d = self.method, self.config.clients.count, self.oracle.dimension
        assert method.full_cohort is not None
        trailer = 8 * len(self.claimed)
        cohorts = (method.cohort, method.full_cohort)
        return Shape(
            seed=self.config.seed,
            clients=clients,
            workers=workers,
            dimension=d,
            sampled=method.cohort,
            max_cohort=max(cohorts),
            max_payload=max(compressor.length(d, self.dtype) for compressor in self.compressors.values()) + trailer,
            trailer=trailer,
            dtype=self.dtype,
            device=self.links,
            pinned=self.device != self.links,
        )


def make(registry: Registry[Callable[..., P]], spec: Spec, key: str, kind: type[P]) -> P:
    """Build what a complete spec describes; raise a ConfigError at ``key`` if a user's own piece is not a ``kind``."""
    piece = registry.get(spec.name, key)
    if missing := getattr(piece, "__abstractmethods__", None):
        names = ", ".join(f"`{name}`" for name in sorted(missing))
        raise ConfigError(
            f"{key}: {spec.name!r} lacks {names}; define what {kind.__name__} describes under these names."
        )
    made = registry.build(spec, key=key)
    if not isinstance(made, kind):
        raise ConfigError(f"{key}: {spec.name!r} makes a {type(made).__name__}, not a {kind.__name__}.")
    return made


def prepare(config: Config, device: torch.device) -> Experiment:
    """Load the data and build the pieces of a run.

    Raises:
        ConfigError: where data and configuration do not fit.
    """
    dtype: torch.dtype = getattr(torch, config.dtype)
    assert config.task is not None
    task = make(TASKS, config.task, "task", Task)
    check_metrics(task)
    clients = config.clients.count
    dataset, split = _load(config, task)
    own = config.model.without("buffers")
    model = models.build(own, dataset.feature_shape, dataset.classes, config.seed, tokens=task.inputs == "tokens")
    buffers = config.model.parameters.get("buffers", "refuse")
    loss = Loss(model, task, device=device, dtype=dtype, name=own.name, buffers=buffers, precision=config.precision)
    held = _client_data(config, dataset, split, loss)
    compressor = make(COMPRESSORS, config.compression, "compression", Compressor)  # type: ignore[type-abstract]
    method = make(METHODS, config.method, "method", Method)  # type: ignore[type-abstract]
    if isinstance(held, PrivateData):
        mean = config.data.parameters.get("samples", inf)  # checked: if it is not given, nothing depends on it
    else:
        samples = [split.size(client) for client in range(clients)]
        _advise_on_batches(method, min(samples), None if isinstance(dataset, Dataset) else dataset.batch_size)
        mean = sum(samples) / clients
        _check_smallest_batch(config, method, loss, held, min(samples))
    if config.stop is not None:
        _check_stop(config, dataset, loss)
    d = loss.flat.dimension
    method = method.resolved(Sizes(clients, mean, d, compressor.nonzeros(d), compressor.omega(d)))
    compressors = {True: Identity(), False: compressor}
    return Experiment(config, dataset, split, held, task, Oracle(loss, held), method, compressors, dtype, device)


def _load(config: Config, task: Task) -> tuple[Prepared, Split]:
    """Return the data that all ranks have, and who holds what; for private data their shape without samples."""
    clients = config.clients
    if is_private(config.data):
        return known(config.data, config.dtype), Split(0, clients.count, None)
    dataset = data.load(config.data.without(*OURS), dtype=config.dtype, task=task)
    named = config.data.parameters["split"]
    return dataset, data.split(named, dataset.labels, clients.count, config.seed, clients.byzantine)


def _client_data(config: Config, dataset: Prepared, split: Split, loss: Loss) -> ClientData:
    """Return what clients learn from, after trying a user's own model on it, unless only the workers have it."""
    name, flipped_clients = config.model.name, flipped(config.attacks, config.clients.byzantine_ids)
    if is_private(config.data):
        assert isinstance(dataset, Dataset)
        return PrivateData(config.data, dataset, loss, flipped_clients)
    chunk = loss.chunk(prod(dataset.feature_shape))
    held = pooled_data(dataset, split, device=loss.device, dtype=loss.dtype, chunk=chunk, flipped=flipped_clients)
    if config.data.parameters.get("workers") and not held.readers():
        _advice.warning("data.workers: %r is in memory, so nothing is read ahead.", config.data.name)
    if ":" in name:  # a user's own
        try_out(loss, held, dataset.classes, name)
    return held


def can_measure_gap(config: Config, dataset: Prepared, loss: Loss) -> bool:
    """Return whether min f can be computed: the server must have the samples, and they must be the same at each reading."""
    known_samples = isinstance(dataset, Dataset) and not is_private(config.data)
    # If the loss is only an estimate of f, its gap means nothing.
    return known_samples and config.evaluate.samples is None and can_be_found(loss, len(dataset.labels))


def _check_stop(config: Config, dataset: Prepared, loss: Loss) -> None:
    """Refuse to stop by a metric that the run does not measure."""
    assert config.stop is not None
    if is_private(config.data) and config.validation is None:
        raise ConfigError(
            "stop: with data.where=worker the server measures nothing, and clients' claims cannot end a run. Give it its own set: "
            "validation."
        )
    metric, measured = config.stop.metric, measured_of(loss.task)
    if metric not in measured:
        raise ConfigError(f"stop.metric: {metric!r} is not measured in this run. Known: {', '.join(measured)}.")
    if metric == "gap" and not can_measure_gap(config, dataset, loss):
        raise ConfigError(
            "stop.metric: the gap is not known in this run: it is f(x) - min f, and the minimum is found for convex models with l2 > 0, on "
            "arrays that the server has, all of which it evaluates. Use loss."
        )


def load_private(experiment: Experiment, rank: int, workers: int) -> None:
    """Load the private data of the clients that live on a worker's rank, if there are any, and try a user's own model on them.

    Raises:
        ConfigError: naming the client, or the model.
    """
    held, config = experiment.data, experiment.config
    if not isinstance(held, PrivateData):
        return
    hosted = experiment.hosted(rank, workers)
    held.load(hosted)
    if ":" in config.model.name and hosted:
        first = held.of(hosted[0])
        try_out(experiment.oracle.loss, first, experiment.dataset.classes or first.classes, config.model.name)
    for client in hosted:
        own = held.of(client)
        _check_smallest_batch(config, experiment.method, experiment.oracle.loss, own, own.samples(client))


def _check_smallest_batch(config: Config, method: Method, loss: Loss, held: ClientData, samples: int) -> None:
    """Try a module that changes its buffers on a single sample, if a batch can be that small; ``samples``: of the smallest client."""
    sizes = [samples, *(getattr(method, key, None) for key in ("batch_size", "full_batch"))]
    if loss.buffers == "local" and 1 in sizes and isinstance(held, PooledData):
        try_single_samples(loss, held, config.model.name)


def _advise_on_batches(method: Method, smallest: int, loader_size: int | None) -> None:
    """Warn of batches that differ from a DataLoader's, or that the client with the ``smallest`` number of samples cannot fill."""
    own = getattr(method, "batch_size", None)
    if isinstance(own, int) and loader_size not in (None, own):
        _advice.warning(
            "method.batch_size is %d, and the data's DataLoader has batches of %d; method.batch_size is used.",
            own,
            loader_size,
        )
    for key in ("batch_size", "full_batch"):
        size = getattr(method, key, None)
        if isinstance(size, int) and size > smallest:
            _advice.warning(
                "method.%s is %d; a client with fewer samples uses all that it has. The smallest client has %d.",
                key,
                size,
                smallest,
            )
