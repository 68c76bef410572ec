"""Every registered name with its one-line description."""

from typing import Any

from byzdist.aggregation import PRE, RULES
from byzdist.attacks import ATTACKS
from byzdist.compression import COMPRESSORS
from byzdist.data import DATASETS, SPLITS
from byzdist.methods import METHODS
from byzdist.models import MODELS
from byzdist.registry import Registry
from byzdist.sampling import AVAILABILITY

SECTIONS: dict[str, Registry[Any]] = {
    "methods (method.name)": METHODS,
    "aggregation rules (aggregation.rule)": RULES,
    "pre-aggregation steps (aggregation.pre)": PRE,
    "compressors (compression.name)": COMPRESSORS,
    "attacks (attack.name)": ATTACKS,
    "data sets (data.name)": DATASETS,
    "splits (data.split)": SPLITS,
    "models (model.name)": MODELS,
    "availability models (clients.availability.name)": AVAILABILITY,
}


def catalogue() -> str:
    """Return the text of ``byzdist list``."""
    lines = []
    for title, registry in SECTIONS.items():
        lines += ["", title]
        lines += [f"  {name:24}{registry.describe(name)}" for name in registry]
    return "\n".join(lines[1:])
