"""How long the server waits in vain for a worker that is late again and again."""

from dataclasses import dataclass, field

_DEADLINES = 3  # that a worker may miss before its share of the time counts


@dataclass
class Allowance:
    """The seconds that the server may still wait in vain for one worker.

    It begins with three deadlines, and grows by a share of the time that passes up to as much again. So waiting in vain for one
    worker takes at most that share of a run's time and three deadlines, whatever the pattern of its lateness. A worker that is
    never late never spends anything, so that nothing depends on the speed of workers that answer in time.

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
        """Note that the server has waited so long for nobody but this worker and others that are late."""
        self._grow(now)
        self._left -= seconds

    def seconds_to_go(self, now: float) -> float:
        """Return in how many seconds there is enough for another deadline; 0 where there is."""
        self._grow(now)
        return max(0.0, (self.deadline - self._left) / self.share)

    def _grow(self, now: float) -> None:
        self._left = min(_DEADLINES * self.deadline, self._left + self.share * (now - self.now))
        self.now = now
