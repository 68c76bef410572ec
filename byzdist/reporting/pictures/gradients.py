"""How many gradients of single samples the clients of each round were asked for, from what a run's folder says."""

import csv
from pathlib import Path

import numpy as np

from byzdist.errors import ConfigError
from byzdist.host.files import read_text
from byzdist.methods import METHODS
from byzdist.reporting.pictures.history import Array, History
from byzdist.storage.folder import CLIENTS

_LARGEST = 1 << 28  # bytes of clients.csv


def gradients(run: History) -> Array:
    """Return the sample gradients of each round, summed over its cohort, replies or not.

    What a client computes depends on the method (`Method.evaluations`), and on how many samples it holds (clients.csv).

    Raises:
        ConfigError: for a method of the user's own, or a folder that does not say how many samples the clients hold.
    """
    name, facts = str(run.settings.get("method.name")), run.described.get("method", {})
    evaluations = getattr(METHODS.get(name), "evaluations", None) if name in METHODS else None
    if evaluations is None:
        raise ConfigError(f"--x gradients: {run.folder}: how many gradients {name!r} takes is not known.")
    samples = _samples(run.folder)
    try:
        costs = {"full": evaluations(facts, True, samples), "sampled": evaluations(facts, False, samples)}
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"--x gradients: {run.folder}: run.json does not say what {name!r} was given.") from None
    try:
        return np.array([costs[line["kind"]][line["cohort"]].sum() for line in run.lines], dtype=np.float64)
    except (KeyError, IndexError) as error:
        raise ConfigError(f"--x gradients: {run.folder}: rounds and clients.csv do not fit: {error}.") from None


def _samples(folder: Path) -> Array:
    path = folder / CLIENTS
    try:
        rows = list(csv.DictReader(read_text(path, _LARGEST).splitlines()))
        return np.array([int(row["samples"]) for row in rows], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ConfigError(
            f"--x gradients: {path} does not say how many samples the clients hold ({error}); a run on private data has none."
        ) from None
