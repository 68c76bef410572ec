"""What is recorded of a round: one line of metrics.jsonl, with named fields."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RoundRecord:
    """One round, as the metrics and all watchers of the run get it.

    Attributes:
        cohort: the clients that were asked, ascending; ``byzantine`` of them are Byzantine.
        missing: by client id, why its reply is missing or cannot be used; ``replies`` replies could be used.
        called: why a full round came out of turn; None if it did not.
        postponed: why a sampled round came although a full one was due: too few clients could take part.
        clipped: how many rows were clipped, to ``clip_level``; None: the round is not clipped.
        f: how many Byzantine rows the rule was told to expect; None if nothing was aggregated.
        untrusted: why the replies were not trusted and the estimate was kept.
        bytes_up, bytes_down: what the server received and sent in the round.
        events: what happened to clients and workers since the previous round.
        seconds: how long each stage took.
        evaluation: what was measured of the model, by the names of `byzdist.problem.evaluation.measured_of`.
        diagnostics: what `byzdist.runtime.diagnostics` measured of the round, by name.
        claimed: what clients with private data claim, by the same names: median, spread, and how many clients claim it.
    """

    round: int
    full: bool
    cohort: list[int]
    missing: dict[int, str]
    byzantine: int
    bytes_up: int
    bytes_down: int
    called: str | None = None
    postponed: str | None = None
    clipped: int = 0
    clip_level: float | None = None
    f: int | None = None
    untrusted: str | None = None
    events: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    claimed: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def replies(self) -> int:
        """How many replies could be used."""
        return len(self.cohort) - len(self.missing)

    @property
    def is_untrusted(self) -> bool:
        """Whether a full round was put off, or gave no estimate, because too few replies could be trusted."""
        return self.postponed is not None or self.untrusted is not None

    @property
    def has_majority(self) -> bool:
        """Whether more than half of the cohort were Byzantine clients."""
        return 2 * self.byzantine > len(self.cohort)

    def line(self) -> dict[str, Any]:
        """Return the line of metrics.jsonl; users' scripts depend on its keys."""
        line: dict[str, Any] = {
            "round": self.round,
            "kind": "full" if self.full else "sampled",
            "cohort": self.cohort,
            "replies": self.replies,
            "missing": self.missing,
            "byzantine": self.byzantine,
        }
        if self.called is not None:
            line["called"] = self.called
        if self.postponed is not None:
            line["untrusted"] = self.postponed
        line["clipped"], line["clip_level"] = self.clipped, self.clip_level
        if self.untrusted is not None:
            line["untrusted"] = self.untrusted
        if self.f is not None:
            line["f"] = self.f
        line["bytes_up"], line["bytes_down"] = self.bytes_up, self.bytes_down
        if self.events:
            line["news"] = self.events
        line["seconds"] = self.seconds
        line |= self.evaluation | self.diagnostics
        if self.claimed:
            line["claimed"] = self.claimed
        return line
