"""Whether a worker and the server hold the same data and the same model, which a worker checks before it joins."""

import hashlib
import logging
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from byzdist.errors import ConfigError
from byzdist.problem.modules import fixed
from byzdist.randomness import stream
from byzdist.runtime.experiment import Experiment

log = logging.getLogger(__name__)
# Rows of features, and numbers in all, that are compared: data may be larger than memory.
_MAX_ROWS, _MAX_NUMBERS = 256, 2**20
_PROBES = 8
_TOLERANCE = 1e-4  # relative, of probes: another processor may round differently
Facts = dict[str, Any]


def facts(experiment: Experiment) -> Facts:
    """Return what is compared, as JSON: shapes, a digest of all targets, probes of some features and of the model."""
    data, oracle = experiment.dataset, experiment.oracle
    rows = max(1, min(_MAX_ROWS, _MAX_NUMBERS // max(1, prod(data.feature_shape))))
    # The server has no samples of private data.
    some = np.asarray(data.some(-(-len(data.labels) // rows) or 1))
    left_alone = [_some(tensor) for tensor in fixed(oracle.loss.model).values()]
    return {
        "features": list(data.feature_shape),
        "classes": data.classes,
        "dtype": str(some.dtype),
        "samples": len(data.labels),
        "targets": hashlib.blake2b(np.ascontiguousarray(data.labels).data, digest_size=8).hexdigest(),
        "sample": _probes(some),
        "parameters": oracle.dimension,
        "start": _probes(_some(oracle.initial())),
        "fixed": _probes(np.concatenate(left_alone) if left_alone else np.zeros(0)),
    }


def _some(values: Tensor) -> NDArray[Any]:
    flat = values.detach().flatten()
    some: NDArray[Any] = flat[:: -(-len(flat) // _MAX_NUMBERS) or 1].double().cpu().numpy()
    return some


def _probes(values: NDArray[Any]) -> list[float]:
    """Return the norm of a vector, and its inner products with some fixed vectors of signs, divided by that norm."""
    flat = np.ravel(values).astype(np.float64)
    norm = float(np.linalg.norm(flat))
    signs = stream(0, "agreement")
    products = [float(flat @ (signs.integers(0, 2, len(flat)) * 2.0 - 1.0)) for _ in range(_PROBES)]
    return [norm, *(product / (norm or 1.0) for product in products)]


def compare(mine: Facts, servers: Facts, rank: int) -> None:
    """Compare a worker's facts with the server's.

    Args:
        mine: the worker's facts.
        servers: the server's facts.
        rank: the worker's rank.

    Raises:
        ConfigError: naming the rank and the first difference with which the two cannot work together.
    """
    if misfit := _misfit(mine, servers):
        raise ConfigError(f"worker {rank}: {misfit}; give every rank the same data and model.")
    if not _agree(mine["fixed"], servers["fixed"]):
        raise ConfigError(
            f"worker {rank}: the frozen parameters or the buffers of its model differ from the server's; load them from a file or "
            "draw them with torch's global generator, which byzdist seeds."
        )
    if not _agree(mine["start"], servers["start"]):
        log.warning(
            "the model of worker %d has other initial values than the server's, which are used: the run cannot be repeated. "
            "Draw them with torch's global generator, which byzdist seeds.",
            rank,
        )
    if difference := _other_samples(mine, servers):
        raise ConfigError(
            f"worker {rank}: {difference}; give every rank the same data, or clients data of their own (data.where=worker)."
        )


def _misfit(mine: Facts, servers: Facts) -> str:
    """Return why server and worker cannot read each other's messages, or ""."""
    for key, what in (
        ("features", "its data have {} features, the server's {}"),
        ("classes", "its data have {} classes, the server's {}"),
        ("dtype", "its data are in {}, the server's in {}"),
        ("parameters", "its model has {} parameters, the server's {}"),
    ):
        if mine[key] != servers[key]:
            return what.format(_in_words(mine[key]), _in_words(servers[key]))
    return ""


def _in_words(value: Any) -> str:
    return str(value[0] if isinstance(value, list) and len(value) == 1 else value)


def _other_samples(mine: Facts, servers: Facts) -> str:
    """Return how the samples differ, or ""."""
    if mine["samples"] != servers["samples"]:
        return f"its data have {mine['samples']} samples, the server's {servers['samples']}"
    if mine["targets"] != servers["targets"]:
        return "its data have other targets than the server's"
    return "" if _agree(mine["sample"], servers["sample"]) else "its data have other features than the server's"


def _agree(mine: list[float], servers: list[float]) -> bool:
    return bool(np.allclose(mine, servers, rtol=_TOLERANCE, atol=_TOLERANCE))
