"""The attacks: one function each."""

from byzdist.attacks.base import ATTACKS, Attack, Situation
from byzdist.registry import import_all

import_all(__name__, __path__)

__all__ = ["ATTACKS", "Attack", "Situation"]
