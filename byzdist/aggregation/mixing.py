"""Pre-aggregation: steps that replace the vectors by weighted sums of them, done on the weights and not on the data."""

from typing import Annotated, TypeAlias

import numpy as np
import scipy.sparse
import torch
from annotated_types import Ge, Gt

from byzdist.aggregation.points import SPARSE_FROM, Points
from byzdist.aggregation.rules import Floats, pre_step
from byzdist.aggregation.span import nearest
from byzdist.errors import ConfigError

Generator: TypeAlias = torch.Generator | np.random.Generator | None


def clip_factors(norms: Floats, threshold: float) -> Floats:
    """Return min(1, threshold / norm) for each norm; 1 for a norm of zero."""
    return np.minimum(1.0, threshold / np.maximum(norms, np.finfo(np.float64).tiny))


def _permutation(n: int, generator: Generator) -> Floats:
    if generator is None:
        raise ConfigError("generator: bucketing draws a permutation; pass a torch.Generator or a numpy Generator.")
    if isinstance(generator, torch.Generator):
        return torch.randperm(n, generator=generator, device=generator.device).cpu().numpy()
    return generator.permutation(n)


@pre_step("clip")
def clip(points: Points, f: int, generator: Generator, *, threshold: Annotated[float, Gt(0)]) -> Points:
    """Shorten every vector to at most ``threshold``."""
    return points.scaled(clip_factors(points.norms(), threshold))


@pre_step("arc")
def arc(points: Points, f: int, generator: Generator) -> Points:
    """Shorten the k = floor(2 f/n (n - f)) longest vectors to the length of the next one.

    Allouah et al., "Adaptive Gradient Clipping for Robust Federated Learning", ICLR 2025.
    """
    n, norms = points.size, points.norms()
    longest = min(n - 1, 2 * f * (n - f) // n)
    return points.scaled(clip_factors(norms, float(np.sort(norms)[n - 1 - longest])))


@pre_step("bucketing", size=lambda n, size, **_: -(-n // size))
def bucketing(points: Points, f: int, generator: Generator, *, size: Annotated[int, Ge(1)] = 2) -> Points:
    """Average the vectors in random groups of ``size``, the last of which may be smaller; f stays as it is.

    Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR 2022.
    """
    n = points.size
    if size == 1 or n == 1:
        return points
    members = _permutation(n, generator)
    group = np.arange(n) // size
    share = 1.0 / np.bincount(group)[group]
    matrix = scipy.sparse.csr_array((share, (group, members)), shape=(int(group[-1]) + 1, n))
    return points.mixed(matrix if n >= SPARSE_FROM else matrix.toarray())


@pre_step("nnm")
def nnm(points: Points, f: int, generator: Generator) -> Points:
    """Replace each vector by the mean of the n - f nearest to it, itself included.

    Allouah et al., "Fixing by Mixing", AISTATS 2023.
    """
    n = points.size
    chosen = nearest(points.squared_distances(), n - f)
    matrix = np.zeros((n, n))
    np.put_along_axis(matrix, chosen, 1.0 / (n - f), axis=1)
    return points.mixed(matrix)
