"""Pre-aggregation: steps that replace the vectors by weighted sums of them; they change the weights, not the data."""

from functools import lru_cache
from typing import Annotated, Any, TypeAlias

import numpy as np
import scipy.sparse
import torch
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from byzdist.aggregation.points import SPARSE_FROM, Points
from byzdist.aggregation.rules import pre_step
from byzdist.aggregation.span import clip_factors, nearest
from byzdist.aggregation.types import Floats
from byzdist.errors import ConfigError

Generator: TypeAlias = torch.Generator | np.random.Generator | None


def _permutation(n: int, generator: Generator) -> NDArray[Any]:
    if generator is None:
        generator = np.random.default_rng()
    if isinstance(generator, torch.Generator):
        return np.asarray(torch.randperm(n, generator=generator, device=generator.device).cpu())
    if not isinstance(generator, np.random.Generator):
        raise ConfigError(
            f"generator: a torch.Generator or numpy Generator is needed, such as numpy.random.default_rng(0) (it is {generator!r})."
        )
    return generator.permutation(n)


@lru_cache(maxsize=64)
def _groups(n: int, size: int) -> tuple[NDArray[np.intp], Floats]:
    """Divide n places into consecutive groups; return each place's group and its weight in the group's mean."""
    group = np.arange(n) // size
    return group, 1.0 / np.bincount(group)[group]


@pre_step("clip", aliases=["clipping"])
def clip(points: Points, f: int, generator: Generator, *, threshold: Annotated[float, Gt(0)]) -> Points:
    """Shorten every vector to at most ``threshold``."""
    norms = points.norms()
    return points.scaled(clip_factors(norms, threshold / points.unit))


@pre_step("arc", aliases=["adaptive_robust_clipping"])
def arc(points: Points, f: int, generator: Generator) -> Points:
    """Shorten the k = floor(2 f/n (n - f)) longest vectors to the length of the next one.

    Allouah et al., "Adaptive Gradient Clipping for Robust Federated Learning", ICLR 2025.
    """
    n, norms = points.size, points.norms()
    longest = min(n - 1, 2 * f * (n - f) // n)
    return points.scaled(clip_factors(norms, float(np.sort(norms)[n - 1 - longest])))


@pre_step("bucketing", size=lambda n, size, **_: -(-n // size), mixes=True)
def bucketing(points: Points, f: int, generator: Generator, *, size: Annotated[int, Ge(1)] = 2) -> Points:
    """Average the vectors in random groups of ``size``, which divides the breakdown point by ``size``.

    The last group may be smaller; it is divided by its own size, as in the code of [BRPP], whose Algorithm 2 has ``size``. f hostile
    vectors may fall into f different groups, so f stays while n becomes n / size.
    Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR 2022.
    """
    n = points.size
    if size == 1 or n == 1:
        return points
    members = _permutation(n, generator)
    group, share = _groups(n, size)
    shape = (int(group[-1]) + 1, n)
    if n >= SPARSE_FROM:
        return points.mixed(scipy.sparse.csr_array((share, (group, members)), shape=shape))
    matrix = np.zeros(shape)
    matrix[group, members] = share
    return points.mixed(matrix)


@pre_step(
    "nnm",
    products=True,
    aliases=["nearest_neighbor_mixing", "nearest_neighbour_mixing"],
    kappa=lambda n, f, kappa: 8 * f / (n - f) * (kappa + 1),
)
def nnm(points: Points, f: int, generator: Generator) -> Points:
    """Replace each vector by the mean of the n - f nearest to it, itself included.

    A rule's kappa becomes at most 8f/(n-f) (kappa + 1). Allouah et al., "Fixing by Mixing", AISTATS 2023.
    """
    n = points.size
    chosen = nearest(points.squared_distances(), n - f)
    matrix = np.zeros((n, n))
    np.put_along_axis(matrix, chosen, 1.0 / (n - f), axis=1)
    return points.mixed(matrix)
