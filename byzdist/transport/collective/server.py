"""The server's end of the collective transport: one default process group, for networks and workers that are trusted to stay.

Full rounds use broadcast and gather; sampled rounds use point-to-point calls with the workers that host the cohort. With
"cpu:gloo,cuda:nccl" headers and ids travel by gloo and models and payloads by nccl. A rank that dies, or stays silent
beyond the deadline, ends the job. Payloads have no checksum: TCP and nccl have their own, and the processes are trusted.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from byzdist.errors import RunError
from byzdist.rounds import Payloads, Replies
from byzdist.transport.base import Request, Save, Shape
from byzdist.transport.collective.group import SERVER, cause, irecv, isend, run_ends_if, time_left
from byzdist.transport.present import PresentClients
from byzdist.transport.reply_rows import ReplyRow, ReplyRows
from byzdist.transport.wire import (
    AFRESH,
    HAS_MODEL,
    HAS_PREVIOUS,
    HEADER_BYTES,
    Kind,
    Stage,
    WireError,
    bare_message,
    check_reply,
    read_stage,
)

_NOT_TAKEN = "a worker is gone, or does not take its message"


class CollectiveServer(PresentClients):
    """The server's end, rank 0 of the default group.

    Args:
        patience: bounds each wait except a round's, in seconds.
        offences: how many replies of a client that are malformed or not finite lead to quarantine.
    """

    def __init__(self, shape: Shape, patience: float, offences: int) -> None:
        super().__init__(shape.clients, offences)
        self._shape, self._patience = shape, patience
        self.frame = shape.frame()
        self._bytes_down = self._bytes_up = 0
        self._rows = ReplyRows.make(shape.max_cohort, shape.max_payload, shape.device, shape.pinned)
        self._unused: ReplyRow | None = None  # what the server sends in a gather, and ranks without a client in it
        self._model_round = dict.fromkeys(range(1, shape.workers + 1), -1)
        self._request: Request
        self._sends: list[dist.Work] = []
        self._receives: list[list[dist.Work]] = []
        self._sent_at = 0.0
        self._unsaved: list[int] = []
        self._failed: list[int] = []

    @run_ends_if(_NOT_TAKEN)
    def send(self, request: Request) -> None:
        """Send point-to-point to the cohort's workers, or start a full round's broadcast and gathers."""
        self._request, self._sent_at = request, time.monotonic()
        self._bytes_down = self._bytes_up = 0
        hosted: dict[int, list[int]] = {}
        cohort = request.round.cohort
        for position, client in enumerate(cohort):
            hosted.setdefault(self._shape.rank(int(client)), []).append(position)
        self._receives = [[] for _ in cohort]
        if request.round.full:
            self._send_full(request, hosted)
        else:
            self._send_sampled(request, hosted)

    @run_ends_if(_NOT_TAKEN)
    def _post(self, parts: list[Tensor], rank: int) -> None:
        for part in parts:
            self._sends.append(isend(part, rank))
            self._bytes_down += part.nbytes

    def _pack(self, request: Request, flags: int) -> list[Tensor]:
        round_ = request.round
        kind = Kind.FULL if round_.full else Kind.SAMPLED
        everyone = len(round_.cohort) == self._shape.clients
        afresh = request.afresh
        return self.frame.pack(kind, round_.number, round_.cohort, everyone=everyone, flags=flags, afresh=afresh)

    def _send_sampled(self, request: Request, hosted: dict[int, list[int]]) -> None:
        # If its receive is posted first, gloo sends a reply at once, without asking whether it is expected. But nccl
        # makes the communicator of a pair with its first message, so both ends must post those in the same order.
        is_on_gpu = self._shape.device.type != "cpu"
        if not is_on_gpu:
            self._expect(request, hosted)
        lacking = self._lacking(request, hosted)
        # One header serves all workers: one that holds x^{k-1} knows that, and gets a shorter message.
        shorter = self._pack(request, HAS_MODEL)
        longer = self._pack(request, HAS_MODEL | HAS_PREVIOUS) if lacking else shorter
        for rank in sorted(hosted, key=lambda rank: -len(hosted[rank])):  # the worker with the most clients begins
            self._post(longer if rank in lacking else shorter, rank)
            self._model_round[rank] = request.round.number
        if is_on_gpu:
            self._expect(request, hosted)

    def _lacking(self, request: Request, ranks: Iterable[int]) -> set[int]:
        """Return which ranks have to be sent x^{k-1}."""
        return {
            rank for rank in ranks if request.needs_previous and self._model_round[rank] != request.round.number - 1
        }

    def _expect(self, request: Request, hosted: dict[int, list[int]]) -> None:
        """Post the receives of a sampled round."""
        for rank, positions in hosted.items():
            for position in positions:
                parts = self._rows[position].parts(request.length)
                self._receives[position] = [irecv(part, rank) for part in parts]
                self._bytes_up += sum(part.nbytes for part in parts)

    def _send_full(self, request: Request, hosted: dict[int, list[int]]) -> None:
        workers = range(1, self._shape.workers + 1)
        lacking = self._lacking(request, workers)
        shorter = self._pack(request, HAS_MODEL if lacking else 0)
        longer = self._pack(request, HAS_MODEL | HAS_PREVIOUS) if lacking else shorter
        for rank in workers:
            self._post(longer if rank in lacking else shorter, rank)
            self._model_round[rank] = request.round.number
        if not lacking:
            self._sends.append(dist.broadcast(self.frame.current, SERVER, async_op=True))
            self._bytes_down += self.frame.current.nbytes * len(workers)
        unused = self._unused = self._unused or ReplyRows.make(1, self._shape.max_payload, self._shape.device)[0]
        for turn in range(max(map(len, hosted.values()), default=0)):
            positions = {rank: mine[turn] for rank, mine in hosted.items() if turn < len(mine)}
            rows = [self._rows[positions[rank]] if rank in positions else unused for rank in (SERVER, *workers)]
            works = []
            for gathered in zip(*(row.parts(request.length) for row in rows), strict=True):
                works.append(dist.gather(gathered[0], list(gathered), SERVER, async_op=True))
                self._bytes_up += gathered[0].nbytes * len(workers)
            for position in positions.values():
                self._receives[position] = works

    def collect(self, deadline: float) -> Replies:
        """Wait for the replies; see `ServerEnd.collect`.

        Raises:
            RunError: if a worker is gone or silent, because the group cannot be used afterwards.
        """
        until, request = self._sent_at + deadline, self._request
        present, missing, afresh = dict[int, int](), self.excluded(request.round.cohort), set[int]()
        for position, client in enumerate(request.round.cohort.tolist()):
            self._await(position, client, until)
            if client in missing:
                continue
            try:
                message = self._rows[position].message
                flags = check_reply(message, 0, request.round.number, client, request.length)
            except WireError as error:
                missing[client] = str(error)
                self.blame(client, str(error))
                continue
            present[client] = position
            if flags & AFRESH:
                afresh.add(client)
        self._flush(until)
        payloads = Payloads(present, self._rows.payloads(list(present.values()), request.length))
        return Replies(payloads, missing, afresh, self._bytes_down, self._bytes_up)

    def _await(self, position: int, client: int, until: float) -> None:
        try:
            for work in self._receives[position]:
                work.wait(time_left(until))
        except RuntimeError as error:
            raise RunError(
                f"round {self._request.round.number}: worker rank {self._shape.rank(client)} (client {client}) is gone or silent "
                f"beyond the deadline, which ends a run on the collective transport: {cause(error)}"
            ) from None

    def _flush(self, until: float | None = None) -> None:
        """Wait until everything has been sent, at most ``until`` a time, by default as long as the server has patience.

        Raises:
            RunError: if a worker does not take its message, because the group cannot be used afterwards.
        """
        until = until or time.monotonic() + self._patience
        with run_ends_if(_NOT_TAKEN):
            for work in self._sends:
                work.wait(time_left(until))
        self._sends.clear()

    def snapshot(self, round_: int) -> dict[str, Any]:
        """Return which workers hold the round's model, and who has offended."""
        holders = [rank for rank, held in self._model_round.items() if held == round_]
        return {"holders": holders, **super().snapshot(round_)}

    def resume(self, round_: int, snapshot: dict[str, Any], everyone: bool) -> None:
        """Send the model once more to those who held it; see `ServerEnd.resume`."""
        super().resume(round_, snapshot, everyone)
        holders = snapshot.get("holders", [])
        for rank in self._model_round:
            if everyone or rank in holders:
                self._flush()  # messages share one header
                flags = HAS_MODEL if rank in holders else 0
                self._post(self.frame.pack(Kind.RESUME, round_, np.arange(0), everyone=True, flags=flags), rank)
        for rank in holders:
            self._model_round[rank] = round_
        self._flush()

    def save(self, order: Save) -> None:
        """Ask every worker and wait for the answers, which come at once; see `ServerEnd.save`."""
        message = bare_message(Kind.SAVE, order.round, length=order.oldest)
        answers = torch.zeros(self._shape.workers, HEADER_BYTES, dtype=torch.uint8)
        with run_ends_if(_NOT_TAKEN):
            receives = [irecv(answer, rank) for rank, answer in enumerate(answers, 1)]
            self._sends += [isend(message, rank) for rank in self._model_round]
        self._unsaved, self._failed = [], []
        until = time.monotonic() + self._patience
        for rank, (receive, answer) in enumerate(zip(receives, answers, strict=True), 1):
            with run_ends_if(f"round {order.round}: worker rank {rank} is gone or silent"):
                receive.wait(time_left(until))
            stage = read_stage(answer, order.round)
            if stage is Stage.FAILED:
                self._failed.append(rank)
                self.events.append(f"worker {rank} could not save what its clients remember: see its log")
            elif stage is Stage.WRITING:
                self._unsaved.append(rank)
        self._flush()

    def unsaved(self) -> list[int]:
        """See `ServerEnd.unsaved`."""
        return self._unsaved

    def end_save(self) -> list[int]:
        """See `ServerEnd.end_save`."""
        return sorted(self._failed + self._unsaved)

    def stop(self) -> None:
        """Send every worker the end of the run."""
        with suppress(RunError):  # the run is over, even if a worker does not take this
            for rank in self._model_round:
                self._post(self.frame.pack(Kind.STOP, 0, np.arange(0), everyone=True, flags=0), rank)
            self._flush()
        dist.destroy_process_group()
