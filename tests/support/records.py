"""Records of rounds that no run has made, for tests of what reports them."""

from collections.abc import Collection
from typing import Any

from byzdist.problem.evaluation import OF_ANY_TASK
from byzdist.reporting.record import RoundRecord


def record(round_: int, metrics: Collection[str] = ("accuracy",), **more: Any) -> RoundRecord:
    """Return the record of a round of three clients; ``more`` are other fields, or measured numbers by name.

    Args:
        metrics: the names of the task's own among them.
    """
    evaluation = {key: more.pop(key) for key in (*OF_ANY_TASK, *metrics) if key in more}
    fields: dict[str, Any] = {
        "full": False,
        "cohort": [1, 4, 7],
        "missing": {},
        "byzantine": 0,
        "bytes_up": 10,
        "bytes_down": 30,
    }
    return RoundRecord(round_, **fields | more, evaluation=evaluation)
