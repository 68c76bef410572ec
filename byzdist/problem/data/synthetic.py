"""Gaussian blobs: a classification problem of any size, made from a seed."""

from typing import Annotated

from annotated_types import Ge

from byzdist.problem.data.base import DATASETS, RawData
from byzdist.randomness import stream


@DATASETS.register("synthetic")
def synthetic(
    *,
    samples: Annotated[int, Ge(1)] = 1000,
    features: Annotated[int, Ge(1)] = 20,
    classes: Annotated[int, Ge(2)] = 2,
    separation: Annotated[float, Ge(0)] = 3.0,
    test_samples: Annotated[int, Ge(0)] = 0,
    seed: int = 0,
) -> RawData:
    """Gaussian blobs, one for each class, of unit variance around centres about ``separation`` apart.

    Centres are drawn from N(0, separation²/(2·features)·I), hence two of them are ``separation`` apart in the root
    mean square.
    """
    generator = stream(seed, "synthetic data")
    centres = generator.standard_normal((classes, features)) * separation / (2 * features) ** 0.5
    labels = generator.permutation(samples + test_samples) % classes
    points = centres[labels] + generator.standard_normal((len(labels), features))
    if not test_samples:
        return RawData(points, labels)
    return RawData(points[:samples], labels[:samples], points[samples:], labels[samples:])
