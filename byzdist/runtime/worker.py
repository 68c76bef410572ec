"""The worker's loop: request in, reply out, for every client that lives here."""

import logging
from functools import cached_property, partial

import torch
from torch import Tensor

from byzdist.attacks import Context
from byzdist.attacks.assignment import Assignment, assignments
from byzdist.attacks.base import Envelope
from byzdist.attacks.collusion import Collusion
from byzdist.attacks.effect import Effect
from byzdist.methods import ClientTask
from byzdist.norms import norm
from byzdist.problem.oracle import BUFFERS
from byzdist.reporting.logs import at_round
from byzdist.rounds import ClientMemories, Round
from byzdist.runtime.claims import Claims
from byzdist.runtime.experiment import Experiment
from byzdist.runtime.foresight import Foresight
from byzdist.storage.saving import WorkerSaver
from byzdist.transport.base import Received, Reply, Resume, Save, WorkerEnd

log = logging.getLogger(__name__)
# Who remembers something of a client: the names of the pieces in `ClientMemories`.
METHOD, COMPRESSOR, ATTACK, WIRE = "method", "compressor", "attack", "wire"


class Worker:
    """One worker process, and the clients that it hosts."""

    def __init__(
        self,
        experiment: Experiment,
        collusion: Collusion | None = None,
        saver: WorkerSaver | None = None,
        foresight: Foresight | None = None,
    ) -> None:
        config, oracle = experiment.config, experiment.oracle
        self._config, self._oracle = config, oracle
        self._method, self._compressors = experiment.method, experiment.compressors
        self._collusion, self._saver, self._foresight = collusion, saver, foresight
        self._byzantine = frozenset(config.clients.byzantine_ids)
        self._assignments = assignments(config.attacks, config.clients.byzantine_ids)
        self._effect = Effect()
        self._claims = Claims.of(experiment)
        remember = {METHOD: self._method.clients_remember, COMPRESSOR: self._compressors[False].remembers}
        remember[BUFFERS] = oracle.loss.buffers == "local"
        self._honest = [piece for piece, does in remember.items() if does]
        self._memories = oracle.memories = ClientMemories([*self._honest, ATTACK, WIRE])
        self._links = experiment.links
        self._dense = torch.zeros(oracle.dimension, dtype=getattr(torch, config.dtype), device=self._links)
        self._decoded = torch.empty_like(self._dense if self._method.keeps_copies else self._dense[:0])

    @cached_property
    def _start(self) -> Tensor:
        """x^0, which attacks are told. It is made when it is first needed, so it takes no memory if nobody attacks."""
        return self._oracle.initial().to(self._links)  # on the device of everything that an attack is given

    def run(self, transport: WorkerEnd) -> None:
        """Serve requests until the server ends the run."""
        while (received := transport.receive()) is not None:
            self.handle(received, transport)

    def handle(self, received: Received | Save | Resume, transport: WorkerEnd) -> None:
        """Do what one message of the server asks for."""
        if isinstance(received, Received):
            self._serve(received, transport)
        elif isinstance(received, Resume):
            self._restore(received.round)
        else:
            assert self._saver is not None, "the server asks only where clients remember something"
            transport.answer(received, self._saver.save(received, self._memories.tensors()))

    def _restore(self, round_: int) -> None:
        """Restore what the clients here remembered after a round, and forget everything else."""
        if self._saver is not None:
            self._memories.restore(self._saver.load(round_), self._links)

    def _serve(self, received: Received, transport: WorkerEnd) -> None:
        at_round(received.round.number)
        points = [point for point in (received.x, received.previous) if point is not None]
        self._oracle.begin(received.round, *points)
        if self._foresight is not None:
            self._foresight.tell(received.round, received.mine)
        compressor = self._compressors[received.round.full]
        length = end = compressor.length(self._oracle.dimension, received.x.dtype)
        if self._claims is not None:
            length += self._claims.nbytes
        for client in received.mine:
            forge, assigned = None, self._assignment(received.round, client)
            if assigned is not None and assigned.has("on_wire"):
                forge = partial(self._forge, received.round, client, assigned)
            afresh = bool(self._honest) and not self._memories.knows(client, self._honest)
            payload = transport.room(length)
            if self._claims is None:
                self._encode(received, client, assigned, payload)
            else:
                self._encode(received, client, assigned, payload[:end])
                self._claims.write(payload[end:], self._oracle, received.x, client, received.round)
            transport.reply(Reply(received.round, client, payload, afresh, forge))

    def _assignment(self, round_: Round, client: int) -> Assignment | None:
        if client not in self._byzantine:
            return None
        assigned = next((entry for entry in self._assignments if entry.covers(client, round_)), None)
        return None if assigned is None or assigned.is_honest else assigned

    def _forge(self, round_: Round, client: int, assigned: Assignment, message: Tensor) -> Tensor:
        """Return what an attack sends in place of a client's finished reply."""
        memory = self._memories.of(WIRE, client)
        envelope = Envelope(round_, client, message, memory.get("sent"))
        memory["sent"] = message.clone()
        return assigned.mount(envelope)

    def _encode(self, received: Received, client: int, assigned: Assignment | None, payload: Tensor) -> None:
        """Write a client's encoded message into an outgoing payload."""
        compressor = self._compressors[received.round.full]
        dense = payload.view(self._dense.dtype) if compressor.in_place else self._dense
        message = self._message(received, client, assigned, dense)
        compressor.encode(message, payload, received.round, client, self._memories.of(COMPRESSOR, client))
        if self._method.keeps_copies:
            decoded = dense if compressor.in_place else self._decoded
            compressor.decode(payload, decoded, received.round, client, {})
            self._method.note_sent(self._memories.of(METHOD, client), decoded)

    def _message(self, received: Received, client: int, assigned: Assignment | None, out: Tensor) -> Tensor:
        difference = self._method.sends_differences and not received.round.full
        # This worker may hold x^{k-1} only because another of its clients was sent it.
        previous = received.previous if difference else None
        memory, afresh = self._memories.of(METHOD, client), client in received.afresh
        task = ClientTask(received.round, client, received.x, previous, memory, self._method.batches, afresh)
        self._method.message(self._oracle, task, out)
        copy = self._method.copy_of(memory)
        if client not in self._byzantine:
            if self._collusion and not self._byzantine.isdisjoint(received.round.cohort.tolist()):
                self._collusion.publish(received.round.number, client, out if copy is None else out + copy)
            return out
        if assigned is None or assigned.has("on_wire"):
            return out
        # With copies, an attack acts on the client's estimate: its copy with its message added. The copy moves 1/(1+ω) of the way to
        # the attack's vector, because over the whole way the noise of the compressor would add up.
        copy = copy if assigned.changes_messages else None
        if copy is not None:
            out.add_(copy)
        honest = self._effect.before(out) if assigned.changes_messages else None
        sent = assigned.vector(self._context(received, client, out, assigned))
        self._effect.after(honest, sent, assigned.name)
        if copy is None:
            return sent
        omega = self._compressors[received.round.full].omega(len(out)) or 0.0
        return torch.sub(sent, copy, out=out).div_(1 + omega)

    def _level(self, round_: int, moved: float | None, g: Tensor) -> float | None:
        """Return the clipping level of a sampled round as an attacker computes it, without knowing what the last full round gave."""
        return self._method.clip_level(norm(g), round_=round_, moved=moved)

    def _context(self, received: Received, client: int, honest: Tensor, assigned: Assignment) -> Context:
        config, round_, colluders = self._config, received.round, None
        difference = self._method.sends_differences and not self._method.keeps_copies and not round_.full
        previous = received.previous if difference or assigned.has("knows_estimate") else None
        decay, moved = self._method.weight_decay or 0.0, None
        aggregated = config.clients.count if self._method.keeps_bank else len(round_.cohort)
        if decay and previous is not None and round_.number > 0:
            moved = norm(received.x - previous)
        if self._collusion and assigned.has("omniscient"):
            good = [c for c in round_.cohort.tolist() if c not in self._byzantine]
            colluders = self._collusion.gather(round_.number, good, honest.device)
        return Context(
            round=round_,
            client=client,
            honest=honest,
            difference=difference,
            x=received.x,
            start=self._start,
            previous=previous,
            step_size=self._method.step(round_.number),
            last_step=self._method.step(max(round_.number - 1, 0)),
            clients=config.clients.count,
            byzantine=self._byzantine,
            f=config.declared_byzantine * aggregated // config.clients.count,
            colluders=colluders,
            rule=config.aggregation.rule if assigned.has("knows_rule") else None,
            pre=config.aggregation.pre if assigned.has("knows_rule") else None,
            weight_decay=decay,
            clip=partial(self._level, round_.number, moved),
            compressor=self._compressors[round_.full],
            compressed=self._memories.of(COMPRESSOR, client),
            memory=self._memories.of(ATTACK, client),
        )
