"""How long the server waits in vain for a worker that is often late."""

from dataclasses import dataclass, field

_DEADLINES = 3  # deadlines that a worker may miss before its share of the time counts


@dataclass
class Allowance:
    """The seconds that the server may still wait in vain for one worker.

    It begins with three deadlines, and a share of the time that passes refills it up to that. So the server waits in
    vain for one worker for at most that share of a run's time and three deadlines, however its lateness is spread. A worker that is
    never late spends nothing, so that nothing depends on the speed of workers that answer in time.

    Attributes:
        deadline: the longest that a round waits, in seconds.
        share: of the time that passes, up to 1.
        now: the time at the start, in seconds.
    """

    deadline: float
    share: float
    now: float
    _left: float = field(init=False)

    def __post_init__(self) -> None:
        self._left = _DEADLINES * self.deadline

    def spend(self, seconds: float, now: float) -> None:
        """Note that the server has waited ``seconds`` for this worker and other late ones alone."""
        self._grow(now)
        self._left -= seconds

    def seconds_to_go(self, now: float) -> float:
        """Return in how many seconds the allowance covers another deadline; 0 if it does now."""
        self._grow(now)
        return max(0.0, (self.deadline - self._left) / self.share)

    def _grow(self, now: float) -> None:
        self._left = min(_DEADLINES * self.deadline, self._left + self.share * (now - self.now))
        self.now = now
