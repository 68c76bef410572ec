"""Who takes part in a round."""

import numpy as np

from byzdist.randomness import stream


def draw_cohort(seed: int, round_: int, clients: int, size: int) -> np.ndarray:
    """Draw ``size`` of the client ids 0..n-1 uniformly without replacement, ascending [BRPP Alg. 1, line 4]."""
    if size == clients:
        return np.arange(clients)
    return np.sort(stream(seed, "cohort", 0, round_).choice(clients, size, replace=False))
