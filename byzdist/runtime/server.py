"""The parameter server's loop: Algorithm 1 as it is written, over whatever method and transport the configuration names."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzdist.aggregation import Aggregator
from byzdist.errors import RunError
from byzdist.norms import norm
from byzdist.participation import Draws
from byzdist.reporting.logs import at_round
from byzdist.reporting.metrics import Line, Metrics
from byzdist.reporting.watcher import Watcher
from byzdist.rounds import Messages, Replies, Round
from byzdist.runtime.decoding import NOT_FINITE, Decoder
from byzdist.runtime.divergence import Diverged
from byzdist.runtime.experiment import Experiment
from byzdist.runtime.full_rounds import FullRounds
from byzdist.storage.checkpoint import MISSING, Checkpoint
from byzdist.storage.saving import ServerSaver
from byzdist.transport.base import Request, ServerEnd

log = logging.getLogger(__name__)


_ZERO = "the estimate is exactly zero"
_NAMED = 20  # clients in a line of the log


class Server:
    """The state of the parameter server: the model x^k and the estimate g^k, both on the device of the run.

    x^k is the transport's frame itself, or is copied there where the links are on another device.

    Args:
        evaluate: maps x to loss, gap, grad_norm and accuracy, as far as they are defined.
        show: is told each round's line and which evaluation was the last.
        saver: takes the checkpoints.
    """

    def __init__(
        self,
        experiment: Experiment,
        transport: ServerEnd,
        metrics: Metrics,
        evaluate: Callable[[Tensor], dict[str, float]],
        show: Callable[[Line, Metrics], None],
        saver: ServerSaver | None = None,
    ) -> None:
        config = experiment.config
        self._config, self._method = config, experiment.method
        self._clients_remember, self._honest_remember = experiment.clients_remember, experiment.honest_remember
        self._always_previous = experiment.attackers_know_estimate
        self._decoder = Decoder(experiment, transport)
        self._transport, self._metrics = transport, metrics
        self._evaluate, self._show, self._saver = evaluate, show, saver
        chosen = config.aggregation
        self._robust = Aggregator(chosen.rule, chosen.pre, compile=chosen.compile)
        self._sampled = Aggregator("mean") if self._method.plain_mean else self._robust
        current = transport.frame.current
        self.x = current if current.device == experiment.device else current.to(experiment.device)
        self.x.copy_(experiment.oracle.initial())
        self._publish()
        self.g, self._result = torch.zeros_like(self.x), torch.zeros_like(self.x)
        self._bad = frozenset(config.clients.bad)
        self._known: set[int] = set()  # clients that have something to remember
        self._begun = not self._method.starts_full  # whether there is an estimate: g^0, or what came in its place
        assert self._method.full_cohort is not None
        sizes, clients = (self._method.cohort, self._method.full_cohort), config.clients
        self._draws = Draws(config.seed, self._method.is_full, sizes, clients.availability, clients.count)
        self._full_rounds = FullRounds(
            config.declared_byzantine,
            self._method.full_cohort,
            self._robust.max_byzantine,
            min_replies=config.transport.min_replies,
            allow_breakdown=chosen.allow_breakdown,
            growth=self._method.growth,
        )
        # Without clipping, rounds are as safe as their replies; a method that clips estimates cannot leave g = 0, at level 0.
        self._sampled_rounds_are_safe = not self._method.plain_mean and self._full_rounds.are_safe(self._method.cohort)
        self._stands_still_at_zero = self._method.clip != "none" and not self._method.sends_differences
        self.round = -1  # the last one that is complete
        self._stop = False
        self._clock = time.perf_counter()  # when the round before ended
        self._watcher = Watcher(self._method)
        self._away: set[int] = set()  # clients that owed their last reply

    def stop(self) -> None:
        """End the run after the round in progress."""
        self._stop = True
        self._transport.stop_waiting()

    def run(self) -> str:
        """Train from the round after the last one that is complete, and save the end; return "finished" or "stopped".

        Raises:
            RunError: if the run cannot go on, or was told to stop and its state cannot be saved.
        """
        try:
            status = self._train()
        except Diverged:
            raise  # earlier checkpoints are worth more
        except RunError:
            if self._saver is not None:
                with suppress(RunError):
                    self._saver.finish(self.round, self.state)
            raise
        if self._saver is not None:
            failures = self._saver.finish(self.round, self.state)
            if failures and status == "stopped":
                raise RunError(failures[-1])
        return status

    def _train(self) -> str:
        self._clock = time.perf_counter()
        if self.round < 0:
            if self._method.starts_full:
                self._round(self._draw(0, True), {})
            self.round = 0
        for number in range(self.round + 1, self._config.rounds + 1):
            round_, plan = self._plan(number)  # may wait for clients, and then the run may be told to stop
            if self._stop:
                return "stopped"
            if "untrusted" in plan:
                self._full_rounds.postpone(number)
            self._step()
            try:
                self._round(round_, plan)
            except RunError:
                self.x.copy_(self._transport.frame.previous)  # what belongs to the last complete round
                raise
            self.round = number
            if self._saver is not None and (failure := self._saver.after(number, self.state)):
                self._transport.events.append(failure)
        return "finished"

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint of the last complete round holds: live tensors, and facts as JSON."""
        tensors = {"x": self.x, "g": self.g}
        tensors |= {f"method.{name}": tensor for name, tensor in self._method.state.items()}
        tensors |= {f"rule.{name}": tensor for name, tensor in self._robust.memory.items()}
        tensors |= {f"decoder.{name}": tensor for name, tensor in self._decoder.memories.tensors().items()}
        position, metrics = self._transport.position(self.round), self._metrics.state()
        facts = {"position": position, "metrics": metrics, "known": sorted(self._known), "begun": self._begun}
        return tensors, facts | {"full_rounds": self._full_rounds.state()}

    def resume(self, checkpoint: Checkpoint, same_workers: bool) -> None:
        """Go on from a checkpoint, once the workers are there; ``same_workers``: each client lives where it lived then."""
        self.x.copy_(checkpoint.tensors["x"])
        self.g.copy_(checkpoint.tensors["g"])
        for name, tensor in _below("method.", checkpoint.tensors).items():
            self._method.state[name] = tensor.to(self.x.device, copy=True)
        for name, tensor in _below("rule.", checkpoint.tensors).items():
            self._robust.memory[name] = tensor.to(self.x.device, copy=True)
        self._decoder.memories.take_up(_below("decoder.", checkpoint.tensors), self._transport.frame.current.device)
        self._publish()
        self.round = checkpoint.round
        self._known.update(checkpoint.facts["known"])
        self._begun = checkpoint.facts.get("begun", True)  # which earlier versions did not say
        self._full_rounds.resume(checkpoint.facts.get("full_rounds", {}))
        position = checkpoint.facts["position"]
        if not same_workers:  # what it says of ranks is not of these clients
            position = {key: value for key, value in position.items() if key == "clients"}
        self._transport.resume(self.round, position, self._clients_remember)
        if missing := checkpoint.facts.get(MISSING):
            text = f"the checkpoint of round {self.round} lacks what the clients of workers {missing} remembered; they start afresh"
            log.warning("%s", text)
            self._transport.events.append(text)

    def _step(self) -> None:
        """Set x^k = x^{k-1} - γ g^{k-1}."""
        frame = self._transport.frame
        frame.previous.copy_(frame.current)
        self.x.add_(self.g, alpha=-self._method.step_size)
        self._publish()

    def _publish(self) -> None:
        """Bring x^k to where the transport sends it from."""
        current = self._transport.frame.current
        if self.x is not current:
            current.copy_(self.x)

    def _plan(self, number: int) -> tuple[Round, Line]:
        """Decide whether a round is a full one and who is asked; return what the metrics say of it, too."""
        drawn, called = self._draws.is_full(number), self._full_rounds.called(number)
        round_ = self._draw(number, not self._begun or drawn or called is not None)
        if round_.full and self._begun:
            exposed = self._exposed(round_.cohort.tolist(), {})
            if doubt := self._full_rounds.doubt(len(round_.cohort), exposed):
                return self._draw(number, False), {"untrusted": doubt}
        return round_, {"called": called} if called and not drawn else {}

    def _exposed(self, replying: Collection[int], missing: dict[int, str]) -> int:
        """Return how many clients are known to be Byzantine and are not among the replying ones."""
        known = self._transport.quarantined()
        known |= {client for client, reason in missing.items() if reason == NOT_FINITE}
        return len(known.difference(replying))

    def _round(self, round_: Round, plan: Line) -> None:
        times, number, full = [self._clock], round_.number, round_.full
        at_round(number)
        needs_previous = (self._method.sends_differences and not full) or (self._always_previous and number > 0)
        self._transport.send(Request(round_, self._decoder.length(full), needs_previous))
        times.append(time.perf_counter())
        # What needs no reply is done while the server waits for them.
        self._draws.ahead(number + 1)
        size = None if full or self._method.clip == "none" else norm(self.g)
        level = None if size is None else self._method.clip_level(size, self._full_rounds.reference)
        generator = round_.rng("aggregation")
        replies = self._transport.collect(self._config.transport.deadline)
        times.append(time.perf_counter())
        received, missing = self._decoder.decode(replies, round_, self.x)
        self._note(round_, missing)
        if self._honest_remember:
            self._note_memories(replies)
        if size is not None:
            self._watch(number, size)
        exposed = self._exposed(replies.payloads.keys() - missing.keys(), missing)
        line = plan | self._update(round_, received, level, exposed, generator)
        times.append(time.perf_counter())
        self._record(line, round_, replies, missing, times)

    def _watch(self, number: int, size: float) -> None:
        """Take note of ‖g^{k-1}‖, by which a sampled round was clipped."""
        self._full_rounds.watch(number, size)
        if size == 0 and self._stands_still_at_zero:
            self._full_rounds.call(number + 1, _ZERO)

    def _draw(self, number: int, full: bool) -> Round:
        """Draw the cohort: from the clients that the availability model lets take part and, unless told otherwise, can be reached."""
        reachable = self._transport.available()
        if self._config.transport.draw == "available" and len(reachable) < self._config.clients.count:
            return self._draws.draw(number, full, reachable)
        return self._draws.draw(number, full)

    def _note_memories(self, replies: Replies) -> None:
        """Record whose memory was lost."""
        for client in sorted(self._known.intersection(replies.afresh)):
            text = f"client {client} lost what it remembered and starts afresh"
            log.warning("%s", text)
            self._transport.events.append(text)
        self._known.update(replies.payloads)

    def _note(self, round_: Round, missing: dict[int, str]) -> None:
        """Log each client that stopped or began again to reply."""
        absent: dict[str, list[str]] = {}
        for client, reason in missing.items():
            if client not in self._away:
                self._away.add(client)
                absent.setdefault(reason, []).append(str(client))
        for reason, clients in absent.items():
            more = f" and {len(clients) - _NAMED} more" if len(clients) > _NAMED else ""
            log.warning("no reply from client %s%s: %s", ", ".join(clients[:_NAMED]), more, reason)
        if self._away:
            for client in self._away.intersection(round_.cohort.tolist()) - missing.keys():
                self._away.remove(client)
                log.info("client %d replies again", client)

    def _update(
        self,
        round_: Round,
        received: Messages | None,
        level: float | None,
        exposed: int,
        generator: np.random.Generator,
    ) -> Line:
        """Turn g^{k-1} into g^k; return what the metrics say of the aggregation."""
        line: Line = {"clipped": 0, "clip_level": None}
        config, full, replies = self._config, round_.full, 0 if received is None else len(received.clients)
        unclipped = full or level is None and self._sampled_rounds_are_safe
        doubt = self._full_rounds.doubt(replies, exposed) if unclipped else None
        if doubt:
            self._keep(round_, doubt)
            line["untrusted"] = doubt
        if doubt or received is None or replies < config.transport.min_replies:
            return line
        declared = self._full_rounds.byzantine(replies, exposed)

        def aggregate(vectors: Tensor, level: float | None) -> Tensor:
            aggregator = self._robust if full else self._sampled
            f = declared if unclipped else config.declared_byzantine * len(vectors) // config.clients.count
            result = aggregator(vectors, f=f, clip=level, generator=generator, out=self._result)
            line.update(clipped=result.clipped, clip_level=level, f=result.f)
            if not full:
                self._watcher.watch(vectors, level, result)
            return result.vector

        self._begun = True
        self._method.update(self.g, received, level, aggregate)
        if full:
            self._take(round_.number)
        return line

    def _take(self, number: int) -> None:
        """Take note of the estimate that a full round gave."""
        size = norm(self.g)
        if size == 0 and self._stands_still_at_zero:
            self._full_rounds.fail(number, _ZERO)
        else:
            self._full_rounds.succeed(size)

    def _keep(self, round_: Round, doubt: str) -> None:
        """Take note that the estimate is kept because replies that are not clipped cannot be trusted."""
        if round_.full:
            self._full_rounds.fail(round_.number, "the replies of the last could not be trusted")
        elif self._method.sends_differences:
            self._full_rounds.call(round_.number + 1, "an unclipped round's replies could not be trusted")
        self._watcher.untrusted(doubt, self._begun)

    def _record(self, line: Line, round_: Round, replies: Replies, missing: dict[int, str], times: list[float]) -> None:
        number, ids = round_.number, round_.cohort.tolist()
        record: dict[str, Any] = {
            "round": number,
            "kind": "full" if round_.full else "sampled",
            "cohort": ids,
            "replies": len(ids) - len(missing),
            "missing": missing,
            "byzantine": sum(client in self._bad for client in ids),
            **line,
            "bytes_up": replies.bytes_up,
            "bytes_down": replies.bytes_down,
        }
        if self._transport.events:
            record["news"] = self._transport.events.copy()
            self._transport.events.clear()
        request, wait, aggregate = (after - before for before, after in zip(times, times[1:], strict=False))
        record["seconds"] = seconds = {"request": request, "wait": wait, "aggregate": aggregate}
        if number % self._config.evaluate.every == 0 or number == self._config.rounds:
            record |= self._evaluate(self.x)
            seconds["evaluate"] = time.perf_counter() - times[-1]
        before, self._clock = self._clock, time.perf_counter()
        seconds["total"] = self._clock - before
        self._metrics.add(record)
        self._show(record, self._metrics)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
