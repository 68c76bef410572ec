"""What the server shares with its gateways: memory without a name, which is freed when the processes are gone."""

import logging
import mmap
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzdist.errors import ConfigError
from byzdist.transport.base import Shape
from byzdist.transport.reply_rows import ReplyRows
from byzdist.transport.wire import HEADER_BYTES, RequestFrame, round_up

log = logging.getLogger(__name__)
_LARGE = 256 * 1024  # bytes; a larger model is sent from shared memory, as a message of its own
OVER, QUARANTINED = 1, 2
_REASON = 256  # bytes for the reason why a worker is dismissed


def _memory(size: int) -> Tensor:
    """Return ``size`` zero bytes that stay shared across forks; a page takes no memory until it is written."""
    return torch.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=torch.uint8)[:size]


class Shared:
    """The request in progress, rows for replies, and counts of bytes.

    There are rows for all the replies that can be on their way at once: one for each client of a cohort and, for each worker that is
    late, one for each reply that it still owes. A row that was never used takes no memory.

    Attributes:
        frame, models: the server's models; gateways only read them.
        rows: of the replies; only one gateway at a time may write to a row.
        traffic: bytes down and up by rank, since the start of the run.
        dismissed: by rank, why the server refuses that worker: `OVER`, `QUARANTINED`, or 0.
    """

    def __init__(self, shape: Shape) -> None:
        assert shape.device.type == "cpu", "the star's links are gloo's, which sends from the CPU's memory"
        self._shape = shape
        self.models = _memory(2 * shape.dimension * shape.dtype.itemsize).view(shape.dtype)
        self.frame = RequestFrame(shape.dimension, shape.sampled, shape.clients, shape.dtype, shape.device, self.models)
        count = min(shape.clients, shape.workers * shape.max_cohort)
        room = HEADER_BYTES + round_up(shape.max_payload, HEADER_BYTES)
        try:
            self._memory = _memory(count * room).view(count, room)
        except OSError as error:
            raise ConfigError(
                f"method.full_cohort: the replies of {shape.max_cohort} clients, {shape.max_payload} bytes each, do not fit into the "
                f"memory of the server ({error.strerror}); use smaller cohorts (method.cohort, method.full_cohort)."
            ) from None
        self.rows = ReplyRows(self._memory)
        self.traffic = _memory(16 * (shape.workers + 1)).view(torch.int64).view(-1, 2).numpy()
        self.dismissed = _memory(shape.workers + 1).numpy()
        self._reasons = _memory(_REASON * (shape.workers + 1)).view(-1, _REASON).numpy()
        self._round = _memory(8).view(torch.int64).numpy()
        # Clients, their rows, and whether they start afresh.
        self._cohort = _memory(12 * shape.max_cohort).view(torch.int32).view(3, -1).numpy()

    def dismiss(self, rank: int, state: int, reason: str = "") -> None:
        """Note that the server refuses a worker from now on, and why."""
        text = reason.encode()[: _REASON - 1] + b"\0"
        self._reasons[rank, : len(text)] = np.frombuffer(text, dtype=np.uint8)
        self.dismissed[rank] = state

    def why_dismissed(self, rank: int) -> tuple[int, str]:
        """Return whether the server refuses a worker (see ``dismissed``), and the reason."""
        state = int(self.dismissed[rank])
        return state, self._reasons[rank].tobytes().partition(b"\0")[0].decode(errors="ignore")

    def pin(self) -> None:
        """Lock the models and the rows of one cohort in memory, so that this process's GPU copies from and to them directly.

        If the system does not allow that, such copies take longer.
        """
        for memory in (self.models, self._memory[: self._shape.max_cohort]):
            cuda: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            error = int(cuda.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
            if error:
                log.warning(
                    "%d bytes of shared memory cannot be locked for the GPU (CUDA error %d)", memory.nbytes, error
                )

    def publish(self, round_: int, rows: Mapping[int, int], afresh: Set[int] = frozenset()) -> None:
        """Tell the gateways a round, its cohort, the row of each client's reply, and which clients start afresh."""
        self._cohort[:2, : len(rows)] = list(rows), list(rows.values())
        self._cohort[2, : len(rows)] = [client in afresh for client in rows] if afresh else 0
        self._round[0] = round_

    def retire(self) -> None:
        """Tell the gateways that the models are about to change: a request that is still being sent is torn from now on."""
        self._round[0] = -1

    def is_current(self, round_: int) -> bool:
        """Return whether models and cohort are still those of a round."""
        return bool(self._round[0] == round_)

    def cohort(self, size: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Return the ids of the current cohort, their rows, and the ids of those that start afresh."""
        clients, rows, afresh = self._cohort[:, :size].astype(np.int64)
        return clients, rows, clients[afresh > 0].tolist()


def link_frame(shape: Shape, models: Tensor | None = None) -> RequestFrame:
    """Return a frame in which requests leave a gateway and reach a worker.

    A small model travels in one message with its header, which a gateway puts together; a large one goes straight from
    ``models``, the shared memory, into a buffer of its own.
    """
    if shape.dimension * shape.dtype.itemsize <= _LARGE:
        models = None
    elif models is None:
        models = torch.zeros(2 * shape.dimension, dtype=shape.dtype, pin_memory=shape.pinned)
    return RequestFrame(
        shape.dimension,
        shape.sampled,
        shape.clients,
        shape.dtype,
        shape.device,
        models,
        shape.pinned and models is None,
    )
