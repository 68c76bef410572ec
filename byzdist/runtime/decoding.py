"""From the payloads of a round's replies to the vectors that are aggregated."""

from collections.abc import Mapping

import torch
from torch import Tensor

from byzdist.aggregation import nonfinite_rows
from byzdist.methods import Method
from byzdist.rounds import ClientMemories, LateReply, Memory, Messages, Payloads, Replies, Round
from byzdist.runtime.divergence import Diverged
from byzdist.runtime.experiment import Experiment
from byzdist.transport.base import ServerEnd

_COMPRESSOR = "compressor"
NOT_FINITE = "not finite"
"""Why a reply with NaN or infinity is missing."""


class Decoder:
    """Decodes payloads into rows, and leaves out those that are not finite. Its buffers are reused from round to round."""

    def __init__(self, experiment: Experiment, transport: ServerEnd) -> None:
        self._compressors = experiment.compressors
        self._transport, self._device, self._dtype = transport, experiment.device, experiment.dtype
        self._cohort, self._dimension = experiment.method.cohort, experiment.oracle.dimension
        self._share = experiment.method.cohort / experiment.config.clients.count
        self._remembers = experiment.compressors[False].remembers
        self._memories = ClientMemories([_COMPRESSOR] if self._remembers else [])
        self._dense: Tensor | None = None  # room for decoded vectors; None where payloads are the values themselves

    def length(self, full: bool) -> int:
        """Return the bytes of a payload in full or in sampled rounds."""
        return self._compressors[full].length(self._dimension, self._dtype)

    def decode(self, replies: Replies, round_: Round, x: Tensor) -> tuple[Messages, dict[int, str]]:
        """Return the vectors of the usable replies as rows by ascending client id, and why the others are missing.

        Raises:
            Diverged: if replies are not finite because the model x is not.
        """
        present, missing = replies.payloads, replies.missing.copy()
        if not present:
            return Messages(round_, [], x.new_empty(0, len(x))), missing
        drafts = (
            {client: self._memories.of(_COMPRESSOR, client).copy() for client in present} if self._remembers else {}
        )
        vectors, clients = self._vectors(present, round_, drafts), list(present)
        if bad := nonfinite_rows(vectors):
            if not x.isfinite().all():
                raise Diverged(
                    f"round {round_.number}: the run has diverged, its model is not finite. Use a smaller method.step_size, or "
                    "set method.clip if it is none."
                )
            for row in bad:
                missing[clients[row]] = NOT_FINITE
                self._transport.blame(clients[row], NOT_FINITE)
            rows = [row for row in range(len(vectors)) if row not in bad]
            vectors, clients = vectors[rows], [clients[row] for row in rows]
        if self._remembers:
            for client in clients:
                self._memories.of(_COMPRESSOR, client).update(drafts[client])
        return Messages(round_, clients, vectors), missing

    def with_late(
        self, received: Messages, late: Mapping[int, LateReply], method: Method
    ) -> tuple[Messages, list[str]]:
        """Return the vectors of a sampled round together with late replies, and the events that say so.

        A client has at most one row, and late ones are at most half as many as those of the round itself, the youngest first: clients
        that are late on purpose cannot become the majority. Full rounds, which are not clipped, take none.
        """
        room = len(received.clients) // 2
        excluded = {*received.clients, *self._transport.quarantined()}
        usable = {client: one for client, one in late.items() if client not in excluded}
        if received.round.full or not room or not usable:
            return received, []
        added, rows, events = received.clients.copy(), [received.rows], []
        for client, one in sorted(usable.items(), key=lambda item: (-item[1].round.number, item[0])):
            row = torch.empty(1, self._dimension, dtype=self._dtype, device=one.payload.device)
            self._compressors[one.round.full].decode(one.payload, row[0], one.round, client, {})
            if not row.isfinite().all():
                self._transport.blame(client, NOT_FINITE)
            elif len(added) < len(received.clients) + room:
                age = received.round.number - one.round.number
                rows.append(row.to(self._device).mul_(method.late_factor(age, self._share)))
                added.append(client)
                events.append(
                    f"client {client}'s reply to round {one.round.number} counts in round {received.round.number}"
                )
        order = sorted(range(len(added)), key=added.__getitem__)
        return Messages(received.round, [added[i] for i in order], torch.cat(rows)[order]), events

    def tensors(self) -> dict[str, Tensor]:
        """Return what the decoder remembers of clients, as live tensors by name."""
        return self._memories.tensors()

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned, and forget everything else."""
        self._memories.restore(tensors, self._transport.frame.current.device)

    def _vectors(self, present: Payloads, round_: Round, drafts: dict[int, Memory]) -> Tensor:
        """Return the decoded payloads as rows on the device of the run."""
        compressor = self._compressors[round_.full]
        if compressor.in_place:
            vectors = present.rows.view(self._dtype)
        else:
            if self._dense is None:
                self._dense = self._transport.frame.current.new_empty(self._cohort, self._dimension)
            vectors = self._dense[: len(present)]
            for client, payload, row in zip(present, present.rows, vectors, strict=True):
                compressor.decode(payload, row, round_, client, drafts.get(client, {}))
        if vectors.device == self._device:
            return vectors
        rows = torch.empty(vectors.shape, dtype=self._dtype, device=self._device)
        for row, arrived in zip(rows, vectors, strict=True):  # one by one, from the memory in which they arrived
            row.copy_(arrived, non_blocking=True)
        return rows
