"""The names that a task's metrics may have: each is a key beside others in a run's files."""

from collections.abc import Mapping
from typing import Final

from byzdist.errors import ConfigError
from byzdist.problem.evaluation import NOTES, OF_ANY_TASK
from byzdist.problem.task import Metric, Task
from byzdist.words import shown

_LONGEST: Final = 100
TAKEN: Final = frozenset(OF_ANY_TASK) | set(
    "round kind cohort replies missing byzantine called untrusted clipped clip_level f bytes_up bytes_down news seconds "
    "estimate_error honest_variance aggregate_error byzantine_weight honest_clipped byzantine_clipped "
    "status reason rounds byzantine_majorities rounds_per_second "
    "last_round_timestamp_seconds round_seconds rounds_total bytes_total missing_replies_total byzantine_majorities_total".split()
)
"""Names that a task's metric cannot have: the keys of a metrics line and of the summary, and names in Prometheus' file."""


def is_name(name: object) -> bool:
    """Return whether a task's metric can have this name."""
    return _is_word(name) and name not in TAKEN


def _is_word(name: object) -> bool:
    return isinstance(name, str) and name.isascii() and name.isidentifier() and len(name) <= _LONGEST


def check_metrics(task: Task) -> None:
    """Refuse metrics that a metrics line cannot hold beside its own keys.

    Raises:
        ConfigError: naming the metric.
    """
    if not isinstance(task.metrics, Mapping):
        raise ConfigError(
            f"task: its metrics are {type(task.metrics).__name__}; they are a mapping of names to Metric."
        )
    for name, metric in task.metrics.items():
        if not _is_word(name):
            raise ConfigError(
                f"task: a metric's name is made of at most {_LONGEST} letters, digits and underscores, the first no digit "
                f"(it is {shown(name)})."
            )
        if not is_name(name):
            raise ConfigError(
                f"task: a metric cannot be called {name!r}, which a run's files use; call it my_{name}, say."
            )
        if not isinstance(metric, Metric) or metric.better not in NOTES:
            raise ConfigError(f"task: the metric {name!r} is not a Metric whose `better` is 'higher' or 'lower'.")
