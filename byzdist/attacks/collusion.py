"""The declared channel through which omniscient attackers see the honest messages of their cohort.

It exists only when the configuration names such an attack, uses the job's store instead of the training links, and is not
counted in the training bytes.
"""

from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store


class Collusion:
    """One process's access to the channel; vectors are raw bytes of ``dtype`` under a key for round and client."""

    def __init__(self, store: Store, dimension: int, dtype: torch.dtype, patience: float) -> None:
        self._store = store
        self._dimension, self._dtype = dimension, dtype
        self._patience = timedelta(seconds=patience)
        self._published: list[str] = []

    def publish(self, round_: int, client: int, vector: Tensor) -> None:
        """Make an honest client's message known; those of earlier rounds are withdrawn."""
        while self._published and not self._published[0].startswith(f"{round_}/"):
            self._store.delete_key(self._published.pop(0))
        self._store.set(f"{round_}/{client}", vector.cpu().numpy().tobytes())  # type: ignore[arg-type]  # the stub knows only of strings
        self._published.append(f"{round_}/{client}")

    def gather(self, round_: int, clients: Iterable[int]) -> dict[int, Tensor]:
        """Return the messages of the cohort's honest clients; none where one of them does not come in time."""
        keys = {client: f"{round_}/{client}" for client in clients}
        try:
            self._store.wait(list(keys.values()), self._patience)
            values = self._store.multi_get(list(keys.values()))
        except (dist.DistStoreError, dist.DistNetworkError):
            return {}
        return {
            client: torch.frombuffer(bytearray(value), dtype=self._dtype)
            for client, value in zip(keys, values, strict=True)
        }
