"""The declared channel through which omniscient attackers see the honest messages of their cohort.

It exists only if the configuration names such an attack. It uses the job's store instead of the training links, and its bytes
are not counted as training bytes.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from byzdist.torch_private import Store

_CHUNK = 4 << 20  # bytes; the job's store takes no value above 8 MiB


class Collusion:
    """One process's access to the channel; vectors are raw bytes of ``dtype``, in chunks under keys for round and client.

    A restarted store is empty: attackers then see fewer messages, or none, in that round.

    Args:
        connect: opens a connection to the store.
        patience: how long the server waits for a round's replies, in seconds; waiting for honest messages takes half of it.
    """

    def __init__(self, connect: Callable[[], Store], dimension: int, dtype: torch.dtype, patience: float) -> None:
        self._connect, self._store = connect, connect()
        self._dimension, self._dtype = dimension, dtype
        self._patience = timedelta(seconds=patience / 2)
        self._published: list[str] = []
        self._gathered: tuple[int, dict[int, Tensor]] = -1, {}

    def _keys(self, round_: int, client: int) -> list[str]:
        chunks = -(-self._dimension * self._dtype.itemsize // _CHUNK)
        return [f"{round_}/{client}/{chunk}" for chunk in range(chunks)]

    def publish(self, round_: int, client: int, vector: Tensor) -> None:
        """Publish an honest client's message, and delete those of earlier rounds."""
        try:
            while self._published and not self._published[0].startswith(f"{round_}/"):
                self._store.delete_key(self._published.pop(0))
            self._put(round_, client, vector)
        except dist.DistNetworkError:
            self._store, self._published = self._connect(), []
            self._put(round_, client, vector)

    def _put(self, round_: int, client: int, vector: Tensor) -> None:
        content = vector.cpu().numpy().tobytes()
        for chunk, key in enumerate(self._keys(round_, client)):
            self._store.set(key, content[chunk * _CHUNK : (chunk + 1) * _CHUNK])  # type: ignore[arg-type]  # the stub knows only of strings
            self._published.append(key)

    def gather(self, round_: int, cohort: Sequence[int], device: torch.device) -> dict[int, Tensor]:
        """Return the messages of the cohort's honest clients that come in time; later calls in the round return the same ones."""
        if self._gathered[0] != round_:
            try:
                there = self._await(round_, cohort)
                self._gathered = round_, {client: self._read(round_, client).to(device) for client in there}
            except dist.DistNetworkError:
                self._store, self._gathered = self._connect(), (round_, {})
        return self._gathered[1]

    def _await(self, round_: int, clients: Sequence[int]) -> Sequence[int]:
        """Wait for the messages of these clients; return the clients whose messages have come."""
        try:
            self._store.wait([key for client in clients for key in self._keys(round_, client)], self._patience)
        except dist.DistStoreError:
            return [client for client in clients if self._store.check(self._keys(round_, client))]
        return clients

    def _read(self, round_: int, client: int) -> Tensor:
        content = bytearray()
        for key in self._keys(round_, client):
            content += self._store.get(key)
        return torch.frombuffer(content, dtype=self._dtype)
