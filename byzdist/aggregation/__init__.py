"""Robust aggregation of the rows of a matrix: `aggregate` for one call, `Aggregator` for many.

A new rule or pre-aggregation step is one file here, see CONTRIBUTING.md.
"""

from byzdist.aggregation.engine import Aggregated, Aggregator, aggregate, max_byzantine, nonfinite_rows
from byzdist.aggregation.rules import PRE, RULES, Facts, column_rule, pre_step, span_rule
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
    "max_byzantine",
    "nonfinite_rows",
    "pre_step",
    "span_rule",
]
