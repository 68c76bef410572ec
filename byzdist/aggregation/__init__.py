"""Robust aggregation of the rows of a matrix: `aggregate` for one call, `Aggregator` for many."""

from byzdist.aggregation import coordinate, mixing, span, subsets
from byzdist.aggregation.engine import Aggregated, Aggregator, aggregate, max_byzantine, nonfinite_rows
from byzdist.aggregation.rules import PRE, RULES, Facts, column_rule, pre_step, span_rule

__all__ = [
    "PRE",
    "RULES",
    "Aggregated",
    "Aggregator",
    "Facts",
    "aggregate",
    "column_rule",
    "coordinate",
    "max_byzantine",
    "mixing",
    "nonfinite_rows",
    "pre_step",
    "span",
    "span_rule",
    "subsets",
]
