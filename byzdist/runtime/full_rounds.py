"""Full rounds, which are not clipped: when one is called out of turn, and whether its replies can be trusted."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from byzdist.aggregation import Aggregator
from byzdist.runtime.experiment import Experiment

PATIENCE = 3  # consecutive rounds in which |g| is too large before a full round is called
_MAX_PAUSE = 32  # rounds between two attempts at a full round


@dataclass
class FullRoundsState:
    """What a checkpoint keeps of `FullRounds`.

    Attributes:
        reference: |g| as the last full round gave it; None before the first.
        above: for how many consecutive rounds |g| has been too large.
        failures: how many consecutive attempts at a full round gave no estimate.
        due: the round from which on a full round is called, and why.
    """

    reference: float | None = None
    above: int = 0
    failures: int = 0
    due: int | None = None
    why: str = ""


@dataclass
class FullRounds:
    """Decides which replies are trusted without clipping, and calls full rounds besides those that the method draws.

    Replies are trusted if steps and rule tolerate as many Byzantine ones as may be among them. All declared ones may be among them,
    however few replies came, because the absent clients may be the honest ones. A full round is called (1) soon after one whose
    replies were not trusted, with ever longer pauses up to 32 rounds, (2) when |g| was above ``growth`` times what the last full
    round gave for 3 consecutive rounds, because a minority that repeats g's own direction can make it so, and (3) when the server
    calls one.

    Attributes:
        declared: B, how many clients the operator takes to be Byzantine.
        wanted: the cohort of a full round.
        tolerates: maps a number of replies to how many Byzantine ones among them steps and rule tolerate.
        min_replies: fewer replies are not trusted.
        allow_breakdown: trust all replies.
        growth: see above; None: |g| is not watched.
    """

    declared: int
    wanted: int
    tolerates: Callable[[int], int]
    min_replies: int = 1
    allow_breakdown: bool = False
    growth: float | None = None
    _state: FullRoundsState = field(default_factory=FullRoundsState, init=False)

    @classmethod
    def of(cls, experiment: Experiment, aggregator: Aggregator) -> "FullRounds":
        """Return what decides on the full rounds of an experiment whose rule, with its steps, is ``aggregator``."""
        config, method = experiment.config, experiment.method
        assert method.full_cohort is not None
        return cls(
            config.declared_byzantine,
            method.full_cohort,
            aggregator.max_byzantine,
            config.transport.min_replies,
            config.aggregation.allow_breakdown,
            method.growth,
        )

    @property
    def reference(self) -> float | None:
        """|g| as the last full round gave it; None before the first."""
        return self._state.reference

    def byzantine(self, replies: int, exposed: int) -> int:
        """Return how many of the replies may be Byzantine; ``exposed`` other clients are known to be Byzantine."""
        if exposed > self.declared:  # then being exposed proves nothing: honest clients are among them
            exposed = 0
        return min(self.declared - exposed, replies)

    def are_safe(self, replies: int, exposed: int = 0) -> bool:
        """Return whether steps and rule tolerate as many Byzantine replies as there may be."""
        return self.tolerates(replies) >= self.byzantine(replies, exposed)

    def doubt(self, replies: int, exposed: int = 0) -> str | None:
        """Return why this number of replies is not trusted, or None if it is."""
        text = f"{replies} of {self.wanted} replies"
        if replies < self.min_replies:
            return f"{text}, transport.min_replies is {self.min_replies}"
        if self.allow_breakdown or self.are_safe(replies, exposed):
            return None
        return f"{text}, tolerates {self.tolerates(replies)} of {self.byzantine(replies, exposed)}"

    def called(self, round_: int) -> str | None:
        """Return why a full round is called in this round, or None."""
        return self._state.why if self._state.due is not None and round_ >= self._state.due else None

    def call(self, round_: int, why: str) -> None:
        """Call a full round from a round on, unless one is called already."""
        if self._state.due is None:
            self._state.due, self._state.why = round_, why

    def postpone(self, round_: int) -> None:
        """Take note that a full round was due, but too few clients can take part."""
        self._state.due, self._state.why = round_ + 1, self._state.why or "too few clients could take part in the last"

    def fail(self, round_: int, why: str) -> None:
        """Take note that a full round gave no estimate."""
        pause = min(2**self._state.failures, _MAX_PAUSE)
        self._state.failures = min(self._state.failures + 1, _MAX_PAUSE)
        self._state.due, self._state.why = round_ + pause, why

    def succeed(self, size: float) -> None:
        """Take note that a full round gave an estimate with |g| = ``size``."""
        self._state = FullRoundsState(reference=size)

    def watch(self, round_: int, size: float) -> None:
        """Take note of |g| before a sampled round."""
        state = self._state
        if self.growth is None or state.reference is None:
            return
        state.above = state.above + 1 if size > self.growth * state.reference else 0
        if state.above >= PATIENCE:
            self.call(
                round_ + 1,
                f"|g| is {size:.3g}, and for {PATIENCE} rounds was above {self.growth:g} times the {state.reference:.3g} of the last",
            )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON."""
        return asdict(self._state)

    def resume(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self._state = FullRoundsState(**state)
