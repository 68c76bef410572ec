"""What a run's folder says of the run: run.json, config.yaml and clients.csv."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from byzdist import __version__
from byzdist.config.reading import dump
from byzdist.host.files import write_text
from byzdist.problem.data import write_table
from byzdist.problem.evaluation import measured_of
from byzdist.runtime.experiment import Experiment
from byzdist.storage.folder import CLIENTS, CONFIG, RUN, SUMMARY, RunFolder


def describe(experiment: Experiment, workers: int, run: RunFolder) -> None:
    """Describe the run in its folder, and remove the summary of an earlier attempt at it.

    Raises:
        OSError: if it cannot be written.
    """
    config, folder = experiment.config, run.path
    described = {
        "run": run.name,
        "resumed_after": run.resumed_after,
        "byzdist": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seed": config.seed,
        "workers": workers,
        "parameters": experiment.oracle.dimension,
        "method": {key: value for key, value in vars(experiment.method).items() if key != "state"},
        "metrics": measured_of(experiment.task),
        "problem": {
            "features": list(experiment.dataset.feature_shape),
            "outputs": experiment.dataset.classes,
            "inputs": experiment.task.inputs,
        },
        "device": str(experiment.device),
        "threads": config.threads,
        "host": {
            "name": platform.node(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "system": platform.platform(),
        },
    }
    write_text(folder / RUN, json.dumps(described, indent=2) + "\n")
    write_text(folder / CONFIG, dump(config))
    (folder / SUMMARY).unlink(missing_ok=True)  # only a run that has ended has one
    if not experiment.is_private:
        write_clients(experiment, folder)


def write_clients(
    experiment: Experiment, folder: Path, conduct: Mapping[str, Sequence[object]] = MappingProxyType({})
) -> None:
    """Write clients.csv: who holds what, which the server does not know of private data, and ``conduct``, what each client did.

    Raises:
        OSError: if it cannot be written.
    """
    split = None if experiment.is_private else experiment.split
    write_table(split, experiment.label_table, folder / CLIENTS, conduct)
