"""The global generators of torch, numpy and Python, from which a user's code draws; byzdist's own code never does."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_generators(generator: np.random.Generator) -> Iterator[None]:
    """Seed the global generators (torch's on the CPU) from a keyed one, for a user's code, and restore them afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seeds = generator.integers(2**32, size=3).tolist()
    try:
        torch.default_generator.manual_seed(seeds[0])
        np.random.seed(seeds[1])
        random.seed(seeds[2])
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
