"""The worker's loop: request in, reply out, for every client that lives here."""

import logging
from functools import cached_property

import torch
from torch import Tensor

from byzdist.attacks import Context
from byzdist.attacks.assignment import Assignment, assignments
from byzdist.attacks.base import Envelope
from byzdist.attacks.collusion import Collusion
from byzdist.attacks.effect import Effect
from byzdist.compression import Compressor
from byzdist.config.schema import Config
from byzdist.methods import ClientTask, Method
from byzdist.norms import norm
from byzdist.problem.oracle import Oracle
from byzdist.reporting.logs import at_round
from byzdist.rounds import ClientMemories, Round
from byzdist.runtime.experiment import link_device
from byzdist.storage.saving import WorkerSaver
from byzdist.transport.base import Forge, Received, Reply, Resume, Save, WorkerEnd

log = logging.getLogger(__name__)
# Whose memory of a client is whose.
METHOD, COMPRESSOR, ATTACK, WIRE = "method", "compressor", "attack", "wire"


class Worker:
    """One worker process, and the clients that it hosts."""

    def __init__(
        self,
        config: Config,
        oracle: Oracle,
        method: Method,
        compressors: dict[bool, Compressor],
        collusion: Collusion | None,
        saver: WorkerSaver | None = None,
    ) -> None:
        self._config = config
        self._oracle, self._method, self._compressors = oracle, method, compressors
        self._collusion, self._saver = collusion, saver
        self._bad = frozenset(config.clients.bad)
        self._assignments = assignments(config.attacks, config.clients.bad)
        self._effect = Effect()
        remember = {METHOD: method.clients_remember, COMPRESSOR: compressors[False].remembers}
        self._honest = [piece for piece, does in remember.items() if does]
        self._memories = ClientMemories([*self._honest, ATTACK, WIRE])
        self._links = link_device(config, oracle.device)
        self._dense = torch.zeros(oracle.dimension, dtype=getattr(torch, config.dtype), device=self._links)

    @cached_property
    def _start(self) -> Tensor:
        """x^0, for attacks: it takes no memory where nobody attacks."""
        return self._oracle.initial().to(self._links)  # where all lies that an attack is given

    def run(self, transport: WorkerEnd) -> None:
        """Serve requests until the server ends the run."""
        while (received := transport.receive()) is not None:
            self.handle(received, transport)

    def handle(self, received: Received | Save | Resume, transport: WorkerEnd) -> None:
        """Do what one message of the server asks for."""
        if isinstance(received, Received):
            self._serve(received, transport)
        elif isinstance(received, Resume):
            self._take_up(received.round)
        else:
            assert self._saver is not None, "the server asks only where clients remember something"
            transport.answer(received, self._saver.save(received, self._memories.tensors()))

    def _take_up(self, round_: int) -> None:
        """Remember what the clients here remembered after a round, and nothing else."""
        if self._saver is not None:
            self._memories.take_up(self._saver.load(round_), self._links)

    def _serve(self, received: Received, transport: WorkerEnd) -> None:
        at_round(received.round.number)
        self._oracle.forget_points()
        compressor = self._compressors[received.round.full]
        length = compressor.length(self._oracle.dimension, received.x.dtype)
        for client in received.mine:
            afresh = bool(self._honest) and not self._memories.knows(client, self._honest)
            payload = transport.room(length)
            self._encode(received, client, compressor, payload)
            forge = self._forger(received.round, client)
            transport.reply(Reply(received.round, client, payload, afresh, forge))

    def _assignment(self, round_: Round, client: int) -> Assignment | None:
        return next((entry for entry in self._assignments if entry.covers(client, round_)), None)

    def _forger(self, round_: Round, client: int) -> Forge | None:
        """Return what replaces a client's finished reply, if anything does."""
        assigned = self._assignment(round_, client)
        if assigned is None or not assigned.has("on_wire"):
            return None

        def forge(message: Tensor) -> Tensor:
            memory = self._memories.of(WIRE, client)
            envelope = Envelope(round_, client, message, memory.get("sent"))
            memory["sent"] = message.clone()
            return assigned.attack(envelope, **assigned.parameters)

        return forge

    def _encode(self, received: Received, client: int, compressor: Compressor, payload: Tensor) -> None:
        """Write a client's encoded message into an outgoing payload."""
        dense = payload.view(self._dense.dtype) if compressor.in_place else self._dense
        message = self._message(received, client, dense)
        compressor.encode(message, payload, received.round, client, self._memories.of(COMPRESSOR, client))

    def _message(self, received: Received, client: int, out: Tensor) -> Tensor:
        difference = self._method.sends_differences and not received.round.full
        # A worker may hold x^{k-1} where the client was not meant to get it: that depends on who else lives here.
        previous = received.previous if difference else None
        memory = self._memories.of(METHOD, client)
        self._method.message(self._oracle, ClientTask(received.round, client, received.x, previous, memory), out)
        if client not in self._bad:
            if self._collusion and not self._bad.isdisjoint(received.round.cohort.tolist()):
                self._collusion.publish(received.round.number, client, out)
            return out
        assigned = self._assignment(received.round, client)
        if assigned is None or assigned.has("on_wire"):
            return out
        honest = self._effect.before(out) if assigned.changes_messages else None
        sent = assigned.attack(self._context(received, client, out, assigned), **assigned.parameters)
        self._effect.after(honest, sent, assigned.name)
        return sent

    def _level(self, g: Tensor) -> float | None:
        """Return the clipping level of a sampled round, as far as an attacker knows it: not what the last full round gave."""
        return self._method.clip_level(norm(g))

    def _context(self, received: Received, client: int, honest: Tensor, assigned: Assignment) -> Context:
        config, round_, colluders = self._config, received.round, None
        difference = self._method.sends_differences and not round_.full
        if self._collusion and assigned.has("omniscient"):
            good = [c for c in round_.cohort.tolist() if c not in self._bad]
            colluders = self._collusion.gather(round_.number, good, honest.device)
        return Context(
            round=round_,
            client=client,
            honest=honest,
            difference=difference,
            x=received.x,
            start=self._start,
            previous=received.previous if difference or assigned.has("knows_estimate") else None,
            step_size=self._method.step_size,
            clients=config.clients.count,
            byzantine=self._bad,
            f=config.declared_byzantine * len(round_.cohort) // config.clients.count,
            colluders=colluders,
            rule=config.aggregation.rule if assigned.has("knows_rule") else None,
            pre=config.aggregation.pre if assigned.has("knows_rule") else None,
            clip=self._level,
            compressor=self._compressors[round_.full],
            compressed=self._memories.of(COMPRESSOR, client),
            memory=self._memories.of(ATTACK, client),
        )
