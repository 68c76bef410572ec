"""What each host has: the samples of its own clients, in a file that only it can read."""

from pathlib import Path

import numpy as np


def patients(client: int, *, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features [N, 30] and classes [N] of a client, from PATH/client-CLIENT.npz."""
    with np.load(Path(path, f"client-{client}.npz")) as file:
        return file["X"], file["y"]
