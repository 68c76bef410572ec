"""The estimate g^k: clipping, trust in the replies, the rule, and the method's own step, in the order of Algorithm 1."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from byzdist.aggregation import Aggregator
from byzdist.norms import norm
from byzdist.reporting.round_warnings import RoundWarnings
from byzdist.rounds import Messages, Round
from byzdist.runtime.diagnostics import Diagnostics
from byzdist.runtime.experiment import Experiment
from byzdist.runtime.full_rounds import FullRounds

_LOOK_EVERY = 25  # rounds between two looks at the norm of g
_ZERO = "the estimate is exactly zero"


@dataclass(frozen=True)
class RoundSetup:
    """What a round's aggregation needs and the server knows before the replies.

    Attributes:
        size: ‖g^{k-1}‖; None if the round is not clipped.
        level: λ, the clipping level; None if the round is not clipped.
        generator: of what is random in the aggregation.
    """

    size: float | None
    level: float | None
    generator: np.random.Generator


@dataclass(frozen=True)
class Outcome:
    """What became of a round's replies; its fields are explained at `RoundRecord`."""

    clipped: int = 0
    clip_level: float | None = None
    f: int | None = None
    untrusted: str | None = None


class Estimate:
    """The server's estimate of the gradient, and how a round's replies change it.

    Attributes:
        g: g^k, d values on the device of the run.
        exists: whether there is an estimate: g^0, or the first one that came in its place.
    """

    def __init__(
        self,
        experiment: Experiment,
        full_rounds: FullRounds,
        aggregator: Aggregator,
        diagnostics: Diagnostics | None = None,
    ) -> None:
        config, self._method = experiment.config, experiment.method
        self._full_rounds, self._robust, self._diagnostics = full_rounds, aggregator, diagnostics
        self._sampled = Aggregator("mean") if self._method.plain_mean else self._robust
        self._declared, self._clients = config.declared_byzantine, config.clients.count
        self._min_replies = config.transport.min_replies
        # A method that clips whole estimates by ‖g‖ cannot leave g = 0, because it then clips at level 0.
        by_replies = not self._method.plain_mean and (self._method.keeps_copies or not self._method.keeps_bank)
        self._sampled_rounds_are_safe = by_replies and full_rounds.are_safe(self._method.cohort)
        self._stands_still_at_zero = self._method.clip != "none" and not self._method.sends_differences
        self.g = torch.zeros(experiment.oracle.dimension, dtype=experiment.dtype, device=experiment.device)
        self._result = torch.zeros_like(self.g)
        self.exists = not self._method.starts_full
        attacked = any(entry.name != "none" for entry in config.attacks) and config.clients.byzantine > 0
        self._warnings = RoundWarnings(self._method, is_attacked=attacked)

    def prepare(self, round_: Round, moved: float | None = None) -> RoundSetup:
        """Return what is known of a round before its replies; ``moved``: see `Method.clip_level`. This changes nothing."""
        generator = round_.rng("aggregation")
        if round_.full or self._method.clip == "none":
            return RoundSetup(None, None, generator)
        size = norm(self.g)
        level = self._method.clip_level(size, self._full_rounds.reference, round_=round_.number, moved=moved)
        return RoundSetup(size, level, generator)

    def update(self, received: Messages, prepared: RoundSetup, exposed: int) -> Outcome:
        """Turn g^{k-1} into g^k, or keep it if the replies are too few or cannot be trusted.

        Args:
            received: a round's usable replies, perhaps none.
            prepared: what `prepare` returned for the round.
            exposed: how many clients are known to be Byzantine and are not among those that replied.
        """
        round_, replies, level = received.round, len(received.clients), prepared.level
        self._watch_size(round_, prepared.size)
        rows, voters = None, replies
        if self._method.keeps_copies and replies:
            # Even if the round will not count, because the clients assume that their messages were added. These rows include those of
            # clients that were exposed since.
            rows = self._method.rows(self.g, received, level)
            voters, exposed = len(rows), 0
        unclipped = round_.full or (level is None and self._sampled_rounds_are_safe)
        if unclipped and (doubt := self._full_rounds.doubt(voters, exposed)):
            self._keep(round_, doubt)
            return Outcome(untrusted=doubt)
        if replies < self._min_replies:
            return Outcome()
        if rows is None:
            rows = self._method.rows(self.g, received, level)
        if unclipped:
            f = self._full_rounds.byzantine(voters, exposed)
        elif self._method.keeps_bank:
            f = self._full_rounds.byzantine(len(rows), 0)  # the bank may have rows of exposed clients
        else:
            f = self._declared * len(rows) // self._clients
        aggregator = self._robust if round_.full else self._sampled
        result = aggregator(rows, f=f, clip=level, generator=prepared.generator, out=self._result)
        if not round_.full:
            self._warnings.watch(rows, level, result)
        if self._diagnostics is not None:
            self._diagnostics.look(received, rows, level, result, self.g)
        self._method.apply(self.g, result.vector, round_, level)
        self.exists = True
        if round_.number % _LOOK_EVERY == 0:
            self._warnings.watch_estimate(round_.number, norm(self.g))
        if round_.full:
            self._take(round_)
        return Outcome(result.clipped, level, result.f)

    def _watch_size(self, round_: Round, size: float | None) -> None:
        """Take note of ‖g^{k-1}‖, by which a sampled round was clipped."""
        if size is None:
            return
        self._full_rounds.watch(round_.number, size)
        if size == 0 and self._stands_still_at_zero:
            self._full_rounds.call(round_.number + 1, _ZERO)

    def _take(self, round_: Round) -> None:
        """Take note of the estimate that a full round gave."""
        size = norm(self.g)
        if size == 0 and self._stands_still_at_zero:
            self._full_rounds.fail(round_.number, _ZERO)
        else:
            self._full_rounds.succeed(size)

    def _keep(self, round_: Round, doubt: str) -> None:
        """Take note that the estimate is kept because replies that are not clipped cannot be trusted."""
        if round_.full:
            self._full_rounds.fail(round_.number, "the replies of the last could not be trusted")
        elif self._method.sends_differences and not self._method.keeps_copies:
            self._full_rounds.call(round_.number + 1, "an unclipped round's replies could not be trusted")
        self._warnings.untrusted(doubt, self.exists)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps, as live tensors by name: g, and what method and rule remember."""
        tensors = {"g": self.g}
        tensors |= {f"method.{name}": tensor for name, tensor in self._method.state.items()}
        return tensors | {f"rule.{name}": tensor for name, tensor in self._robust.memory.items()}

    def resume(self, tensors: Mapping[str, Tensor], exists: bool) -> None:
        """Restore g and what method and rule remembered; ``exists``: whether there was an estimate."""
        self.g.copy_(tensors["g"])
        for prefix, memory in (("method.", self._method.state), ("rule.", self._robust.memory)):
            for name, tensor in with_prefix(prefix, tensors).items():
                memory[name] = tensor.to(self.g.device, copy=True)
        self.exists = exists


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
