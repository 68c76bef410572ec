"""Byzantine-robust distributed training over real processes."""

import importlib
import importlib.util
from typing import Any

__version__ = "0.1.0"

_OFFERED = {  # imported at the first use, because importing torch takes seconds
    "Aggregator": "byzdist.aggregation",
    "ConfigError": "byzdist.errors",
    "Lazy": "byzdist.problem.data",
    "Metric": "byzdist.problem.task",
    "Run": "byzdist.scripting.results",
    "RunError": "byzdist.errors",
    "Spec": "byzdist.registry",
    "Task": "byzdist.problem.task",
    "aggregate": "byzdist.aggregation",
    "load_run": "byzdist.scripting.results",
    "swap_norms": "byzdist.problem.modules",
    "train": "byzdist.scripting.training",
}
_MODULES = {"ddp": "byzdist.integrations.ddp"}


def __getattr__(name: str) -> Any:
    if name in _OFFERED:
        return getattr(importlib.import_module(_OFFERED[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name.startswith("_") or importlib.util.find_spec(f"byzdist.{name}") is not None:  # the latter: not imported yet
        raise AttributeError(f"module 'byzdist' has no attribute {name!r}")
    return importlib.import_module("byzdist.scripting.pieces").piece(name)  # such as byzdist.byz_vr_marina_pp


def __dir__() -> list[str]:
    pieces = importlib.import_module("byzdist.scripting.pieces").names()
    return sorted({*globals(), *_OFFERED, *_MODULES, *pieces})
