"""Byzantine-robust distributed training over real processes."""

import importlib
from typing import Any

__version__ = "0.1.0"

_OFFERED = {  # imported at the first use, because importing torch takes seconds
    "Aggregator": "byzdist.aggregation",
    "Lazy": "byzdist.problem.data",
    "Metric": "byzdist.problem.task",
    "Task": "byzdist.problem.task",
    "aggregate": "byzdist.aggregation",
    "swap_norms": "byzdist.problem.modules",
}
_MODULES = {"ddp": "byzdist.integrations.ddp"}


def __getattr__(name: str) -> Any:
    if name in _OFFERED:
        return getattr(importlib.import_module(_OFFERED[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'byzdist' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED, *_MODULES])
