"""How many gradients of single samples the clients of each round were asked for, from what a run's folder says."""

import csv
from pathlib import Path

import numpy as np

from byzdist.errors import ConfigError
from byzdist.host.files import read_text
from byzdist.methods import METHODS
from byzdist.reporting.pictures.history import Array, History

_LARGEST = 1 << 28  # bytes of clients.csv


def gradients(run: History) -> Array:
    """Return the sample gradients of each round, summed over its cohort, replies or not.

    A client of a sampled round computes its mini-batch once, or twice if the method sends gradient differences, or one for each local
    step; in a full round it computes all its samples, or ``full_batch`` of them, or takes its local steps. A mini-batch is at most what
    the client holds (clients.csv).

    Raises:
        ConfigError: for a method of the user's own, or a folder that does not say how many samples the clients hold.
    """
    name, facts = str(run.settings.get("method.name")), run.described.get("method", {})
    batch = facts.get("batch_size") if isinstance(facts, dict) else None
    if name not in METHODS or type(batch) is not int:
        raise ConfigError(f"--x gradients: {run.folder}: how many gradients {name!r} takes is not known.")
    points = 2 if getattr(METHODS.get(name), "sends_differences", False) else 1
    steps = facts.get("steps", 1)  # of a method with local steps
    full = facts.get("full_batch", batch)
    samples = _samples(run.folder)
    costs = {
        "full": samples if full == "all" else steps * np.minimum(samples, full),
        "sampled": steps * points * np.minimum(samples, batch),
    }
    try:
        return np.array([costs[line["kind"]][line["cohort"]].sum() for line in run.lines], dtype=np.float64)
    except (KeyError, IndexError) as error:
        raise ConfigError(f"--x gradients: {run.folder}: rounds and clients.csv do not fit: {error}.") from None


def _samples(folder: Path) -> Array:
    path = folder / "clients.csv"
    try:
        rows = list(csv.DictReader(read_text(path, _LARGEST).splitlines()))
        return np.array([int(row["samples"]) for row in rows], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ConfigError(
            f"--x gradients: {path} does not say how many samples the clients hold ({error}); a run on private data has none."
        ) from None
