"""The global generators of torch, numpy and Python, from which a user's code draws; byzdist's own code never does."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


def draw_seeds(generator: np.random.Generator) -> list[int]:
    """Draw a seed for each of the three global generators."""
    seeds: list[int] = generator.integers(2**32, size=3).tolist()
    return seeds


@contextmanager
def restored_generators() -> Iterator[None]:
    """Restore the global generators (torch's on the CPU) afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


@contextmanager
def global_generators(seeds: Sequence[int]) -> Iterator[None]:
    """Seed the global generators (torch's on the CPU) for a user's code, and restore them afterwards."""
    with restored_generators():
        torch.default_generator.manual_seed(seeds[0])
        np.random.seed(seeds[1])
        random.seed(seeds[2])
        yield
