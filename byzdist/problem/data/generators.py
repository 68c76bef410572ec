"""The global generators of torch, numpy and Python, from which a user's code draws; ours never does."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def given_back() -> Iterator[None]:
    """Afterwards have the global generators (torch's on the CPU) as before."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


@contextmanager
def global_generators(generator: np.random.Generator) -> Iterator[None]:
    """Seed the global generators (torch's on the CPU) from one of ours, for code of a user's; afterwards they are as before."""
    seeds = generator.integers(2**32, size=3).tolist()
    with given_back():
        torch.default_generator.manual_seed(seeds[0])
        np.random.seed(seeds[1])
        random.seed(seeds[2])
        yield
