"""The interface of a method: what a sampled client sends, and how the server updates its estimate with it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from torch import Tensor

from byzdist.errors import ConfigError, RunError
from byzdist.methods.schedules import SCHEDULES
from byzdist.problem.oracle import Oracle
from byzdist.registry import Registry, RunFacts
from byzdist.rounds import Memory, Messages, Round

METHODS: Registry[Callable[..., "Method"]] = Registry("method")

Full = Literal["all"]
ClipFactor = Annotated[float, Gt(0)] | Literal["none"]
Growth = Annotated[float, Ge(1)] | Literal["none"]
Batches = Literal["independent", "shared"]
Probability = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class ClientTask:
    """The task of one client in one round.

    Attributes:
        x: x^k, the model at which gradients are needed, d values.
        previous: x^{k-1}, or None in full rounds.
        memory: the method's memory of this client, to be read and written.
        batches: the method's ``batches``.
        afresh: whether the client's copy is to begin at 0 again, because the server has not taken its last message; only for
            methods that keep copies.
    """

    round: Round
    client: int
    x: Tensor
    previous: Tensor | None
    memory: Memory = field(default_factory=dict)
    batches: Batches = "independent"
    afresh: bool = False

    def batch(self, samples: int, size: int) -> np.ndarray:
        """Draw ``size`` of ``samples`` positions (at most all) without replacement, keyed by round and, unless shared, client."""
        return draw_batch(self.round, self.client, samples, size, self.batches)


def draw_batch(round_: Round, client: int, samples: int, size: int, batches: Batches) -> np.ndarray:
    """Draw a client's mini-batch for a round, see `ClientTask.batch`."""
    generator = round_.rng("batch", client if batches == "independent" else 0)
    return generator.choice(samples, min(size, samples), replace=False)


@dataclass(frozen=True)
class Sizes:
    """The numbers of a run on which a method's defaults depend: n, the mean m, d, ζ_Q (nonzero values that Q sends), and ω."""

    clients: int
    samples: float
    dimension: int
    nonzeros: float
    omega: float | None = 0.0


@dataclass(kw_only=True)
class Method(ABC):
    """The parameters that every method has, its client half (`message`) and its server half (`rows`, then `apply`).

    The client half keeps its memory of a client in the task's ``memory``, the server half keeps its own in ``state``.

    Attributes:
        step_size: γ, or a schedule of γ_k, see `byzdist.methods.schedules`.
        weight_decay: w in x^{k+1} = (1 - γ_k w) x^k - γ_k g^k; the gradients that clients send do not include it.
        clip: α in the level λ = α‖x^k - x^{k-1}‖ to which the server clips the vectors of sampled rounds.
        clip_max: λ is at most this.
        clip_growth: λ counts ‖g‖ up to this multiple of ‖g‖ after the last full round; if ‖g‖ stays above the bound, the server
            calls a full round. With a server optimizer, λ = α‖x^k - x^{k-1}‖ is multiplied by bound/‖g‖ when ‖g‖ exceeds the
            bound. A bound on the step itself would clip honest clients as soon as momentum has built up.
        clip_reference: "gradient" for λ = α‖g^{k-1}‖, as in the authors' code.
        batches: "shared": clients with equally many samples draw the same positions among them, as in the authors' code. If all hold
            the same data, honest clients then send the same vector.
        state: what the server half keeps from round to round besides g.

    Example:
        >>> import torch
        >>> from byzdist.methods.base import ClientTask, Method
        >>> from byzdist.rounds import Messages, Round
        >>> class SignDescent(Method):
        ...     "Move against the median of the gradients' signs."
        ...
        ...     def message(self, oracle, task, out):
        ...         oracle.gradient(task.x, task.client, None, out)
        ...
        ...     def rows(self, g, received, level):
        ...         return received.rows.sign_()
        ...
        ...     def apply(self, g, aggregated, round_, level):
        ...         g.copy_(aggregated)
        >>> class Squares:
        ...     "Replaces the Oracle in this example, for f_i(x) = ½‖x - i‖²."
        ...
        ...     def gradient(self, x, client, batch, out):
        ...         torch.sub(x, client, out=out)
        >>> method, round_ = SignDescent(step_size=0.5, cohort=3), Round(number=0, seed=0)
        >>> x, g, rows = torch.zeros(2), torch.zeros(2), torch.empty(3, 2)
        >>> for client in range(3):
        ...     method.message(Squares(), ClientTask(round_, client, x, None), rows[client])
        >>> median = method.rows(g, Messages(round_, [0, 1, 2], rows), None).median(0).values
        >>> method.apply(g, median, round_, None)
        >>> x - method.step(0) * g
        tensor([0.5000, 0.5000])
    """

    step_size: Annotated[float, Gt(0)] | dict[str, Any]
    cohort: Annotated[int, Ge(1)]
    full_cohort: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(1)] = 32
    weight_decay: Annotated[float, Ge(0)] | None = None
    clip: ClipFactor = 1.0
    clip_max: ClipFactor = "none"
    clip_growth: Growth = 2.0
    clip_reference: Literal["step", "gradient"] = "step"
    batches: Batches = "independent"
    state: Memory = field(default_factory=dict, init=False, repr=False, compare=False)

    sends_differences = False  # whether a sampled client needs x^{k-1}; without copies, it sends a gradient difference
    follows_gradients = True  # whether step_size multiplies a gradient's estimate, so that the theory's 1/L limits it
    clients_remember = False  # whether `message` uses the task's memory
    needs_every_client = False  # whether all clients must be asked in every round; cohort and full_cohort are then n
    allows_biased = False  # whether a biased compressor may be used without error feedback
    allows_late = False  # whether a reply may be used in a later round, see `late_factor`
    keeps_copies = False  # whether server and client hold equal copies that change by what was sent, see `Copies`
    needs_common_mask = False  # whether all clients must send the same coordinates: identity, or rand_k with one mask
    keeps_bank = False  # whether the server keeps a row of each client, and `rows` returns those of all known ones
    plain_mean = False  # whether sampled rounds use the mean in place of the robust rule

    @classmethod
    def check_run(
        cls,
        run: RunFacts,
        key: str,
        *,
        step_size: float | Mapping[str, Any] = 1.0,
        cohort: int | None = None,
        full_cohort: int | None = None,
        clip: ClipFactor = "none",
        clip_max: ClipFactor = "none",
        **_: Any,
    ) -> None:
        """Refuse an outdated server half, wrong schedules, cohorts that do not fit, and a cap without clipping."""
        if hasattr(cls, "update"):
            raise ConfigError(
                f"{key}: {cls.__name__} defines `update`, which nothing calls any more; the server half is now `rows` and `apply` "
                "(see byzdist.methods.Method). If `update` is a helper of yours, give it another name."
            )
        if isinstance(step_size, Mapping):
            SCHEDULES.check(step_size, f"{key}.step_size")
        for word, size in (("cohort", cohort), ("full_cohort", full_cohort)):
            if size is not None and size > run.clients:
                raise ConfigError(
                    f"{key}.{word}: {size} of {run.clients} clients cannot be sampled; it is at most clients.count."
                )
            if size not in (None, run.clients) and cls.needs_every_client:
                raise ConfigError(
                    f"{key}.{word}: {size}; this method needs all {run.clients} clients in every round. Leave the key out."
                )
        if clip == "none" and clip_max != "none":
            raise ConfigError(
                f"{key}.clip_max: it limits the level of method.clip, which is none; give method.clip a number."
            )

    def resolved(self, sizes: Sizes) -> "Method":
        """Return the method with the defaults that depend on the run filled in."""
        cohort = sizes.clients if self.needs_every_client else self.cohort or sizes.clients
        return replace(self, cohort=cohort, full_cohort=self.full_cohort or sizes.clients)

    def is_full(self, round_: Round) -> bool:
        """Return c_k: whether round k is a full-gradient round."""
        return False

    @property
    def starts_full(self) -> bool:
        """Whether round 0 computes g^0; otherwise g^0 = 0."""
        return True

    def step(self, round_: int) -> float:
        """Return γ_k, the step from x^k to x^{k+1}, of round k = ``round_``.

        Raises:
            RunError: if a user's own schedule does not give a finite positive number.
        """
        if not isinstance(self.step_size, Mapping):
            return self.step_size
        value = SCHEDULES.build(self.step_size, round_, key="method.step_size")
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise RunError(
                f"method.step_size: the schedule gives {value!r} for round {round_}, which is not a step size."
            )
        return float(value)

    def clip_factor(self, step: float) -> float:
        """Return λ / ‖g^{k-1}‖ before the caps: α·step, or α as in the authors' code; infinite without clipping."""
        if self.clip == "none":
            return math.inf
        return self.clip * (step if self.clip_reference == "step" else 1.0)

    @property
    def moves_by_estimate(self) -> bool:
        """Whether x^{k+1} - x^k follows from the step and g^k alone."""
        return not self.weight_decay

    def direction(self, g: Tensor) -> Tensor:
        """Return d^k in x^{k+1} = (1 - γ_k w) x^k - γ_k d^k: by default g^k."""
        return g

    def end_round(self, g: Tensor) -> None:  # noqa: B027 - most methods have nothing to do here
        """Take g^k at the end of round k; from then on `direction` returns d^k."""

    @property
    def growth(self) -> float | None:
        """The bound of ‖g‖ in λ, as a multiple of ‖g‖ after the last full round; None: no bound."""
        return None if self.clip == "none" or self.clip_growth == "none" else self.clip_growth

    def clip_level(
        self, size: float, reference: float | None = None, *, round_: int = 1, moved: float | None = None
    ) -> float | None:
        """Return λ = α‖x^k - x^{k-1}‖ = αγ_{k-1}‖g^{k-1}‖ [BRPP Alg. 1], within its caps; None: no clipping.

        The caps are not in the paper. λ follows ‖g‖, so without them a minority that repeats g's own direction makes both grow.

        Args:
            size: ‖g^{k-1}‖.
            reference: ‖g‖ after the last full round, None if there was none.
            round_: k, at least 1.
            moved: ‖x^k - x^{k-1}‖ if it is not γ_{k-1}‖g^{k-1}‖, see `moves_by_estimate`. `growth` scales it like ‖g^{k-1}‖.
        """
        if self.clip == "none":
            return None
        counted = size
        if reference is not None and self.growth is not None:
            counted = min(size, self.growth * reference)
        if moved is None or self.clip_reference == "gradient":
            level = self.clip_factor(self.step(round_ - 1)) * counted
        else:
            level = self.clip * moved * (counted / size if size else 1.0)
        return level if self.clip_max == "none" else min(level, self.clip_max)

    @abstractmethod
    def message(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Write into ``out`` what an honest client sends, before compression. The client half.

        Args:
            oracle: computes gradients of the client's loss, see `Oracle.gradient` and `Oracle.difference`, and counts its samples.
            task: the client, the round, the model or models, and the client's memory.
            out: d values in the run's dtype, with undefined content; every one must be written.

        Raises:
            Exception: any exception ends the process that hosts the client.
        """

    def copy_of(self, memory: Memory) -> Tensor | None:
        """Return a client's copy, which it has in common with the server before its message is sent; None for methods without."""
        return None

    def note_sent(self, memory: Memory, decoded: Tensor) -> None:  # noqa: B027 - most methods have nothing to do here
        """Change a client's copy by what the server decodes of its message. Called for methods that keep copies."""

    def positions(self, round_: Round, client: int, samples: int) -> np.ndarray | None:
        """Return which of a client's ``samples`` samples `message` will read, None for all, so that lazy data can be read ahead.

        If `message` reads others, only time is lost.
        """
        return draw_batch(round_, client, samples, self.batch_size, self.batches)

    def late_factor(self, age: int, share: float) -> float:
        """Return the factor of a reply that comes ``age`` rounds late, for methods with `allows_late`; by default (1 - p)^age.

        A bank of estimates decays like that (DeMoA, Otsuka et al. 2026, with α = 1).

        Args:
            age: in rounds, at least 1.
            share: p = C/n, the probability that a client is drawn.
        """
        return (1 - share) ** age

    @classmethod
    def evaluations(
        cls, parameters: Mapping[str, Any], full: bool, samples: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return how many gradients of single samples `message` computes in a full or a sampled round.

        Args:
            parameters: the method's, with their defaults filled in.
            full: c_k.
            samples: how many samples each of some clients holds.

        Returns:
            One number for each of these clients.
        """
        batch: NDArray[np.float64] = np.minimum(samples, parameters["batch_size"])
        return 2 * batch if cls.sends_differences and not full else batch

    def readings(self, round_: Round, client: int, samples: int) -> Iterable[tuple[Round, np.ndarray | None]]:
        """Return what `message` will read, in this order: by default once, the samples at `positions`."""
        return [(round_, self.positions(round_, client, samples))]

    def rows(self, g: Tensor, received: Messages, level: float | None) -> Tensor:
        """Return the rows that the server clips and aggregates, by default those received. The first part of the server half.

        Args:
            g: g^{k-1}, d values, which must not be changed here.
            received: the vectors of a round, full or sampled, and their clients: R x d with R >= 1, all finite, some perhaps from
                Byzantine clients. Their memory may be reused for the result.
            level: the result of `clip_level`, to which each row is clipped; None: rows are not clipped, as in full rounds.

        Returns:
            A matrix of at least one row, d values each, in the dtype and on the device of ``received.rows``.

        Raises:
            Exception: any exception ends the run, also one in `apply`.
        """
        return received.rows

    @abstractmethod
    def apply(self, g: Tensor, aggregated: Tensor, round_: Round, level: float | None) -> None:
        """Update g^{k-1} to g^k in place. The second part of the server half.

        Args:
            g: g^{k-1}, d values, to be overwritten; zeros before the first estimate.
            aggregated: the aggregate of `rows`, by the rule, or by the mean in sampled rounds of a method with `plain_mean`: d values.
                The next round overwrites this memory.
            round_: the round; its ``full`` says whether it is full or sampled.
            level: as in `rows`.
        """
