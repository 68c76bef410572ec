"""What identifies a run when it continues in its folder."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from byzdist import __version__
from byzdist.host.accelerators import choose_device
from byzdist.participation import read_trace
from byzdist.runtime.experiment import Experiment
from byzdist.storage import folder
from byzdist.storage.folder import RunFolder, Wanted


def claim(out: Path | None, experiment: Experiment, resume: bool) -> RunFolder:
    """Return the folder of an experiment's run, locked for this process; see `byzdist.storage.folder.claim`."""
    memories = experiment.config.clients.count if experiment.clients_remember else 0
    vector = experiment.oracle.dimension * experiment.dtype.itemsize
    return folder.claim(out, Wanted(experiment.config, identity(experiment), vector, memories), resume)


def identity(experiment: Experiment) -> dict[str, Any]:
    """Return, as JSON, what must, or should, be the same when a run continues from a checkpoint."""
    return {
        "config": experiment.config.model_dump(exclude_none=True),
        "device": choose_device(experiment.config.device, 0).type,
        "data": _digest(experiment),
        "versions": {
            "byzdist": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "instruction set": torch.backends.cpu.get_cpu_capability(),
        },
    }


def _digest(experiment: Experiment, rows: int = 256) -> str:
    """Return a checksum of labels, of some of the features, and of an availability trace."""
    data, availability = experiment.dataset, experiment.config.clients.availability
    step = max(1, len(data.labels) // rows)
    parts = [data.labels, data.some(step)]
    if data.test_labels is not None:
        parts.append(data.test_labels)
    if experiment.validation is not None:
        parts += [experiment.validation.labels, experiment.validation.some(step)]
    if availability.name == "trace":
        parts += read_trace(availability.parameters["path"], experiment.config.clients.count)
    total = 0
    for part in parts:
        total = zlib.crc32(np.ascontiguousarray(part).data, zlib.crc32(str(part.shape).encode(), total))
    return f"{total:08x}"
