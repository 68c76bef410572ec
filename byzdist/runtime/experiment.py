"""From a configuration to the pieces of a run, the same in every process."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import numpy as np
import torch

from byzdist.attacks.assignment import Assignment, assignments, flipped
from byzdist.compression import COMPRESSORS, Compressor
from byzdist.compression.identity import Identity
from byzdist.config.schema import Config
from byzdist.errors import ConfigError
from byzdist.methods import METHODS, Method, Sizes
from byzdist.problem import data, models
from byzdist.problem.client_data import ArrayData
from byzdist.problem.data import Dataset, Split
from byzdist.problem.loss import Loss
from byzdist.problem.oracle import Oracle
from byzdist.problem.task import Task
from byzdist.problem.tasks import TASKS
from byzdist.problem.trial import try_out
from byzdist.registry import Registry, Spec
from byzdist.transport.base import Shape

P = TypeVar("P")
_advice = logging.getLogger("byzdist.config.checks.data")  # what the server alone says, see logs


@dataclass(frozen=True)
class Experiment:
    """The pieces of a run.

    Attributes:
        compressors: what a reply goes through in full rounds (True: nothing) and in sampled rounds (False).
    """

    config: Config
    dataset: Dataset
    split: Split
    data: ArrayData
    task: Task
    oracle: Oracle
    method: Method
    compressors: dict[bool, Compressor]
    dtype: torch.dtype
    device: torch.device

    @property
    def _can_shrink(self) -> bool:
        """Whether a cohort can be smaller than the method asks for, because clients are away."""
        return self.config.transport.name != "collective" or self.config.clients.availability.name != "always"

    @property
    def _attacks(self) -> list[Assignment]:
        return assignments(self.config.attacks, self.config.clients.bad)

    @property
    def clients_remember(self) -> bool:
        """Whether clients keep something from round to round: for method or compressor, or for an attack."""
        return self.honest_remember or any(entry.has("on_wire") or entry.has("remembering") for entry in self._attacks)

    @property
    def honest_remember(self) -> bool:
        """Whether honest clients do."""
        local = self.oracle.loss.buffers == "local"
        return self.method.clients_remember or self.compressors[False].remembers or local

    @property
    def attackers_know_estimate(self) -> bool:
        """Whether requests bring x^{k-1} in every round, because an attack uses it."""
        return any(entry.has("knows_estimate") for entry in self._attacks)

    @property
    def label_table(self) -> np.ndarray | None:
        """How many samples of each class each client holds, [clients, classes]; None where targets are not classes."""
        if self.task.target != "classes":
            return None
        return self.split.table(self.dataset.labels, self.dataset.classes)

    @property
    def attackers_collude(self) -> bool:
        """Whether attackers look at honest clients' messages, which are then shared in a store."""
        return any(entry.has("omniscient") for entry in self._attacks)

    @property
    def links(self) -> torch.device:
        """Where messages lie in this process: see `link_device`."""
        return link_device(self.config, self.device)

    def shape(self, workers: int) -> Shape:
        """Return the sizes of the messages for a number of worker ranks."""
        method, clients, d = self.method, self.config.clients.count, self.oracle.dimension
        assert method.full_cohort is not None
        cohorts = (method.cohort, method.full_cohort)
        return Shape(
            seed=self.config.seed,
            clients=clients,
            workers=workers,
            dimension=d,
            sampled=method.cohort,
            max_cohort=max(cohorts),
            max_ids=clients if self._can_shrink else max((cohort for cohort in cohorts if cohort < clients), default=0),
            max_payload=max(compressor.length(d, self.dtype) for compressor in self.compressors.values()),
            dtype=self.dtype,
            device=self.links,
            pinned=self.device != self.links,
        )


def make(registry: Registry[Callable[..., P]], spec: Spec, key: str, kind: type[P]) -> P:
    """Return what a complete spec describes; a piece of a user's own that is no ``kind`` is a ConfigError at ``key``."""
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
    dataset = data.load(config.data.without("split"), dtype=config.dtype, task=task)
    clients = config.clients
    split = data.split(config.data.parameters["split"], dataset.labels, clients.count, config.seed, clients.byzantine)
    model = models.build(config.model, dataset.feature_shape, dataset.classes, config.seed)
    name = config.model.name
    loss = Loss(model, task, device=device, dtype=dtype, name=name)
    held = ArrayData(
        dataset,
        split,
        device=device,
        dtype=dtype,
        chunk=loss.chunk(prod(dataset.feature_shape)),
        flipped=flipped(config.attacks, config.clients.bad),
    )
    if ":" in name:  # a user's own
        try_out(loss, held, dataset.classes, name)
    oracle = Oracle(loss, held)
    compressor = make(COMPRESSORS, config.compression, "compression", Compressor)  # type: ignore[type-abstract]
    method = make(METHODS, config.method, "method", Method)  # type: ignore[type-abstract]
    samples = [split.size(client) for client in range(clients.count)]
    _advise_on_batches(method, min(samples))
    d = oracle.dimension
    method = method.resolved(Sizes(clients.count, sum(samples) / clients.count, d, compressor.nonzeros(d)))
    return Experiment(
        config,
        dataset,
        split,
        held,
        task,
        oracle,
        method,
        {True: Identity(), False: compressor},
        dtype,
        torch.device(device),
    )


def _advise_on_batches(method: Method, fewest: int) -> None:
    for key in ("batch_size", "full_batch"):
        size = getattr(method, key, None)
        if isinstance(size, int) and size > fewest:
            _advice.warning(
                "method.%s: a batch of %d is all that a client with fewer samples has; the smallest client has %d.",
                key,
                size,
                fewest,
            )


def link_device(config: Config, device: torch.device) -> torch.device:
    """Return where messages lie in a process that computes on ``device``: gloo sends from the CPU's memory, nccl from a GPU's.

    nccl wants a GPU for each rank, so ranks that share one talk by gloo, as the star always does.
    """
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > torch.cuda.device_count()
    return torch.device("cpu") if config.transport.name != "collective" or sharing else device


def choose_device(config: Config, local_rank: int) -> torch.device:
    """Return the device of a process: one GPU a rank where GPUs are wanted and there, ranks beyond their number wrap around."""
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if config.device in ("auto", "cuda"):
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device(config.device)
