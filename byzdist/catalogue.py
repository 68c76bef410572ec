"""Every registered name with its one-line description, and what is known of each aggregation rule."""

import shutil
import textwrap
from typing import Any

from byzdist.aggregation import PRE, RULES, Facts
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
    "splits (data.split; all but shared: holders = honest or all)": SPLITS,
    "models (model.name)": MODELS,
    "availability models (clients.availability.name)": AVAILABILITY,
}


LEGEND = (
    "n vectors, f of them hostile. Robustness: its constants, (f, kappa) or (delta, c). Norm: F, the most times that the "
    "result can be longer than the longest vector. Cost: arithmetic beyond reading the n x d numbers."
)
INDENT = 26


def catalogue() -> str:
    """Return the text of ``byzdist list``, wrapped to the terminal, or to 100 columns where there is none."""
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    lines = []
    for title, registry in SECTIONS.items():
        lines += ["", title]
        if registry is RULES:
            lines.append(_wrapped("", LEGEND, 4, width))
        for name in registry:
            lines.append(_wrapped(f"  {name}", registry.describe(name), INDENT, width))
            known = _known(RULES.get(name).facts) if registry is RULES else {}
            if parameters := registry.parameters(name):
                known = {"parameters": ", ".join(parameters)} | known
            lines += [_wrapped(f"{'':{INDENT}}{key}", text, INDENT + 12, width) for key, text in known.items()]
    return "\n".join(lines[1:])


def _known(facts: Facts) -> dict[str, str]:
    return {
        "breakdown": facts.breakdown,
        "robustness": facts.robustness or "no constants known",
        "norm": f"F = {facts.norm_formula}",
        "cost": facts.cost,
    }


def _wrapped(head: str, text: str, indent: int, width: int) -> str:
    """Return ``head``, then ``text`` from column ``indent`` on."""
    return textwrap.fill(
        text,
        width,
        initial_indent=f"{head:{indent}}",
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
