"""The attacks: one function each."""

from byzdist.attacks.base import ATTACKS, Attack, Context, knows_estimate, knows_rule, omniscient
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = ["ATTACKS", "Attack", "Context", "knows_estimate", "knows_rule", "omniscient"]
