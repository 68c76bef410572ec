"""What is planned: a configuration, the pieces of it that can be made here, and the options."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from byzdist.aggregation import Aggregator
from byzdist.config.reading import load
from byzdist.config.schema import Config
from byzdist.errors import ConfigError
from byzdist.host.accelerators import choose_device
from byzdist.methods import METHODS
from byzdist.methods.byz_vr_marina_pp import ByzVRMarinaPP
from byzdist.planning.curvature import Curvature, curvature
from byzdist.rounds import Round
from byzdist.runtime.experiment import Experiment, prepare

_ABOUT_FILES = re.compile(r"(data|validation)\.(\w+_)?path:")  # how an error begins that names a file of the data
_IN_PLACE = ("data={name: synthetic}", "validation=null")  # let the rest of a configuration be checked without its data
_LOOKED_AT = 20_000  # rounds whose kind is drawn; of longer runs the share of full ones is taken from these


@dataclass(frozen=True)
class Options:
    """What the user says besides the configuration.

    Attributes:
        confidence: the probability, at least, with which the run has no round that cannot be trusted.
        lipschitz: L, in place of what is computed or measured.
        mu: μ of the Polyak-Łojasiewicz condition, likewise.
        c: of the (δ,c)-robust rule, likewise.
        paper_constants: whether F is the paper's in what is recommended.
        probes: whether to time a few rounds.
        workers: the number of worker processes, on which the bytes sent depend; None: as many as `byzdist run` starts.
    """

    confidence: float = 0.99
    lipschitz: float | None = None
    mu: float | None = None
    c: float | None = None
    paper_constants: bool = False
    probes: bool = True
    workers: int | None = None


@dataclass(frozen=True)
class Subject:
    """A configuration and what can be made of it.

    Attributes:
        experiment: the pieces of a run; None if the data cannot be read here.
        absent: why the experiment is missing.
    """

    config: Config
    options: Options
    experiment: Experiment | None
    absent: str = ""

    @classmethod
    def read(cls, path: str, overrides: Sequence[str], options: Options) -> "Subject":
        """Read a configuration and make its pieces; if its data cannot be read, the rest of it is planned.

        Raises:
            ConfigError: for anything else that `byzdist run` would refuse.
        """
        try:
            config = load(path, overrides)
            torch.set_num_threads(config.threads)
            return cls(config, options, prepare(config, choose_device(config.device, 0)))
        except MemoryError as error:
            raise ConfigError(f"data, model: they do not fit into memory: {error}") from None
        except ConfigError as error:
            if not _ABOUT_FILES.match(str(error)):
                raise
            return cls(load(path, [*overrides, *_IN_PLACE]), options, None, str(error))

    @property
    def clients(self) -> int:
        """The number of clients, n."""
        return self.config.clients.count

    @property
    def declared(self) -> int:
        """B, the declared number of Byzantine clients."""
        return self.config.declared_byzantine

    @property
    def delta(self) -> float:
        """The declared share of Byzantine clients, δ."""
        return self.declared / self.clients

    def parameter(self, name: str) -> Any:
        """Return a parameter of the method, or its default; None if the method lacks the parameter, or the default is not known."""
        if self.experiment is not None:
            return getattr(self.experiment.method, name, None)
        return self.config.method.parameters.get(name)

    @property
    def cohort(self) -> int:
        """The cohort of a sampled round, C."""
        everyone = getattr(METHODS.get(self.config.method.name), "needs_every_client", False)
        return self.clients if everyone else self.parameter("cohort") or self.clients

    @property
    def full_cohort(self) -> int:
        """The cohort of a full round, Ĉ."""
        return self.parameter("full_cohort") or self.clients

    @property
    def plain_mean(self) -> bool:
        """Whether sampled rounds take the mean in place of the rule."""
        return bool(getattr(METHODS.get(self.config.method.name), "plain_mean", False))

    @property
    def keeps_bank(self) -> bool:
        """Whether the server keeps a row of each client, which the rule gets whoever takes part in a round."""
        return bool(getattr(METHODS.get(self.config.method.name), "keeps_bank", False))

    @property
    def rows(self) -> int:
        """How many rows the rule gets in a sampled round: C, or n where the server keeps a row of each client."""
        return self.clients if self.keeps_bank else self.cohort

    @property
    def clips(self) -> bool:
        """Whether sampled rounds are clipped."""
        return bool(self.config.method.parameters.get("clip", "none") != "none")

    @cached_property
    def full_rounds(self) -> float | None:
        """The number of full rounds among 1..T that the method draws; None if p is not known."""
        rounds = self.config.rounds
        if self.experiment is None:
            p = self.config.method.parameters.get("p", 0.0)
            return None if p is None else p * rounds
        seed, looked_at = self.config.seed, min(rounds, _LOOKED_AT)
        is_full: Callable[[Round], bool] = self.experiment.method.is_full
        full = sum(is_full(Round(number, seed)) for number in range(1, looked_at + 1))
        return full * rounds / looked_at

    @cached_property
    def aggregator(self) -> Aggregator:
        """Steps and rule."""
        return Aggregator(self.config.aggregation.rule, self.config.aggregation.pre)

    @property
    def f(self) -> int:
        """What the rule is told to expect in a sampled round, floor(δC), but no more than it accepts."""
        return min(self.declared * self.cohort // self.clients, self.aggregator.max_f(self.cohort))

    @cached_property
    def curvature(self) -> Curvature | None:
        """What is known of the losses; the user's numbers come first."""
        options = self.options
        if options.lipschitz is not None:
            given = options.lipschitz
            return Curvature(given, given, options.mu, "given", "given" if options.mu else "")
        found = None if self.experiment is None else curvature(self.experiment)
        if found is None or options.mu is None:
            return found
        return Curvature(found.smoothness, found.of_mean, options.mu, found.source, "given", found.heterogeneity)

    @property
    def has_theory(self) -> bool:
        """Whether Theorems 4.1 and 4.2 are about this method: Algorithm 1, with whole gradients in full rounds."""
        method = METHODS.get(self.config.method.name)
        is_marina = isinstance(method, type) and issubclass(method, ByzVRMarinaPP)
        return is_marina and not self.plain_mean and self.config.method.parameters.get("full_batch") == "all"
