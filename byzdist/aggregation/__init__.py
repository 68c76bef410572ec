"""Robust aggregation of the rows of a matrix: `aggregate` for one call, `Aggregator` for many.

A new rule or pre-aggregation step is one file in this folder, see CONTRIBUTING.md.
"""

from byzdist.aggregation.engine import Aggregated, Aggregator, max_byzantine
from byzdist.aggregation.oneshot import aggregate, free_workspaces
from byzdist.aggregation.rules import PRE, RULES, Facts, column_rule, pre_step, span_rule
from byzdist.aggregation.vectors import nonfinite_rows
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = [
    "PRE",
    "RULES",
    "Aggregated",
    "Aggregator",
    "Facts",
    "aggregate",
    "column_rule",
    "free_workspaces",
    "max_byzantine",
    "nonfinite_rows",
    "pre_step",
    "span_rule",
]
