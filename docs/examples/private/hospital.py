"""The data function of each host: it reads the samples of the host's own clients from files that only this host has."""

from pathlib import Path

import numpy as np


def patients(client: int, *, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features [N, 30] and classes [N] of a client, from PATH/client-CLIENT.npz."""
    with np.load(Path(path, f"client-{client}.npz")) as file:
        return file["X"], file["y"]
