"""The parameter server's loop: Algorithm 1 of [BRPP], with the method and the transport that the configuration names."""

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import Tensor

from byzdist.aggregation import Aggregator
from byzdist.errors import RunError
from byzdist.norms import norm
from byzdist.reporting.logs import at_round
from byzdist.reporting.record import RoundRecord
from byzdist.rounds import Replies
from byzdist.runtime.attendance import Attendance
from byzdist.runtime.best import Best
from byzdist.runtime.claims import Claimed, Claims
from byzdist.runtime.decoding import Decoder
from byzdist.runtime.diagnostics import Diagnostics
from byzdist.runtime.divergence import Diverged
from byzdist.runtime.estimate import Estimate, Outcome, with_prefix
from byzdist.runtime.experiment import Experiment
from byzdist.runtime.full_rounds import FullRounds
from byzdist.runtime.next_round import NextRound, RoundPlanner
from byzdist.runtime.recording import Recorder, Stopwatch
from byzdist.runtime.stopping import Stop
from byzdist.storage.checkpoint import MISSING, Checkpoint
from byzdist.storage.saving import ServerSaver
from byzdist.transport.base import Request, ServerEnd

log = logging.getLogger(__name__)


class Server:
    """The parameter server: the model x^k and the estimate g^k, both on the device of the run, and the rounds that change them.

    x^k is the transport's frame itself, or is copied there if the links are on another device.

    Args:
        stop: ends the run after the round in progress.
        saver: takes the checkpoints.
        best: ends the run once it no longer gets better.
        diagnostics: measures every round.
    """

    def __init__(
        self,
        experiment: Experiment,
        transport: ServerEnd,
        recorder: Recorder,
        stop: Stop,
        saver: ServerSaver | None = None,
        best: Best | None = None,
        diagnostics: Diagnostics | None = None,
    ) -> None:
        self._experiment, self._transport, self._recorder = experiment, transport, recorder
        self.stop, self._saver, self._best, self._diagnostics = stop, saver, best, diagnostics
        chosen = experiment.config.aggregation
        aggregator = Aggregator(chosen.rule, chosen.pre, compile=chosen.compile)
        self.full_rounds = FullRounds.of(experiment, aggregator)
        self._attendance = Attendance(transport.quarantined, experiment.honest_remember)
        self._planner = RoundPlanner(experiment, transport, self.full_rounds, self._attendance)
        self._decoder = Decoder(experiment, transport)
        self._claims = Claims.of(experiment)
        self.estimate = Estimate(experiment, self.full_rounds, aggregator, diagnostics)
        current = transport.frame.current
        self.x = current if current.device == experiment.device else current.to(experiment.device)
        self.x.copy_(experiment.oracle.initial())
        self._publish()
        self._always_previous = experiment.attackers_know_estimate
        self.round = -1  # the last one that is complete
        self._clock = Stopwatch()

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
        self._clock = Stopwatch()
        if self.round < 0:
            if self._experiment.method.starts_full:
                self._round(self._planner.start())
            self.round = 0
        for number in range(self.round + 1, self._experiment.config.rounds + 1):
            if self._best is not None and self._best.reason:
                break
            plan = self._planner.plan(number, self.estimate.exists)  # may wait for clients
            if self.stop.is_told:  # perhaps while it waited
                return "stopped"
            if plan.postponed:
                self.full_rounds.postpone(number)
            self._step(number)
            try:
                self._round(plan)
            except RunError:
                self.x.copy_(self._transport.frame.previous)  # the model of the last complete round
                raise
            self.round = number
            if self._saver is not None and (failure := self._saver.after(number, self.state)):
                self._transport.events.append(failure)
        return "finished"

    def _step(self, number: int) -> None:
        """Set x^k = (1 - γ_{k-1} w) x^{k-1} - γ_{k-1} d^{k-1}, k being ``number``, d the direction and w the weight decay."""
        frame = self._transport.frame
        frame.previous.copy_(frame.current)
        method = self._experiment.method
        step = method.step(number - 1)
        if method.weight_decay:
            self.x.mul_(1 - step * method.weight_decay)
        self.x.add_(method.direction(self.estimate.g), alpha=-step)
        self._publish()

    def _moved(self, number: int) -> float | None:
        """Return ‖x^k - x^{k-1}‖; None if it follows from the estimate."""
        if number == 0 or self._experiment.method.moves_by_estimate:
            return None
        frame = self._transport.frame
        return norm(frame.current - frame.previous)

    def _publish(self) -> None:
        """Copy x^k to where the transport sends it from."""
        current = self._transport.frame.current
        if self.x is not current:
            current.copy_(self.x)

    def _round(self, plan: NextRound) -> None:
        """Ask the cohort, turn g^{k-1} into g^k with the replies, and record the round."""
        round_, clock = plan.round, self._clock
        at_round(round_.number)
        request = self._request(plan)
        self._transport.send(request)
        clock.end("request")
        # Work that needs no reply is done while the server waits.
        self._planner.draw_ahead(round_.number + 1)
        prepared = self.estimate.prepare(round_, self._moved(round_.number))
        replies = self._transport.collect(self._experiment.config.transport.deadline)
        clock.end("wait")
        claimed: Claimed = {}
        if self._claims is not None:
            replies, rows = self._claims.cut(replies)
            if self._claims.are_due(round_):
                claimed = self._claims.summary(rows)
        received, missing = self._decoder.decode(replies, round_, self.x)
        events = self._attendance.note(round_, replies, missing)
        if replies.late:
            received, counted = self._decoder.with_late(received, replies.late, self._experiment.method)
            events += counted
        if self._experiment.method.keeps_copies:
            received = replace(received, afresh=replies.afresh | request.afresh)
            events += self._attendance.note_taken(request.afresh, replies, received.clients)
        exposed = self._attendance.exposed(received.clients, missing)
        outcome = self.estimate.update(received, prepared, exposed)
        self._experiment.method.end_round(self.estimate.g)
        clock.end("aggregate")
        self._transport.events += events
        record = self._record(plan, replies, missing, outcome)
        record.claimed = claimed
        self._recorder.add(record, self.x, clock)

    def _request(self, plan: NextRound) -> Request:
        round_ = plan.round
        differences = self._experiment.method.sends_differences and not round_.full
        needs_previous = differences or (self._always_previous and round_.number > 0)
        trailer = 0 if self._claims is None else self._claims.nbytes
        afresh = self._attendance.ask(round_) if self._experiment.method.keeps_copies else frozenset()
        return Request(round_, self._decoder.length(round_.full) + trailer, needs_previous, afresh)

    def _record(self, plan: NextRound, replies: Replies, missing: dict[int, str], outcome: Outcome) -> RoundRecord:
        round_, transport, byzantine = plan.round, self._transport, self._experiment.config.clients.byzantine_ids
        cohort, events = round_.cohort.tolist(), transport.events.copy()
        transport.events.clear()
        return RoundRecord(
            round=round_.number,
            full=round_.full,
            cohort=cohort,
            missing=missing,
            byzantine=sum(client in byzantine for client in cohort),
            bytes_up=replies.bytes_up,
            bytes_down=replies.bytes_down,
            called=plan.called,
            postponed=plan.postponed,
            clipped=outcome.clipped,
            clip_level=outcome.clip_level,
            f=outcome.f,
            untrusted=outcome.untrusted,
            events=events,
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint of the last complete round holds: live tensors, and facts as JSON."""
        tensors = {"x": self.x} | self.estimate.tensors()
        tensors |= {f"decoder.{name}": tensor for name, tensor in self._decoder.tensors().items()}
        facts = {
            "position": self._transport.snapshot(self.round),
            "metrics": self._recorder.metrics.state(),
            "begun": self.estimate.exists,
            "full_rounds": self.full_rounds.state(),
            **self._attendance.state(),
        }
        if self._diagnostics is not None:
            facts["diagnostics"] = self._diagnostics.state()
        if self._best is not None:
            best, found = self._best.state()
            tensors, facts = tensors | best, facts | found
        return tensors, facts

    def resume(self, checkpoint: Checkpoint, same_workers: bool) -> None:
        """Go on from a checkpoint, once the workers are there; ``same_workers``: each client is on the same rank as then."""
        tensors, facts = checkpoint.tensors, checkpoint.facts
        self.x.copy_(tensors["x"])
        self._publish()
        self.round = checkpoint.round
        self.estimate.resume(tensors, facts.get("begun", True))  # checkpoints of earlier versions do not say
        self._decoder.resume(with_prefix("decoder.", tensors))
        self._attendance.resume(facts)
        self.full_rounds.resume(facts.get("full_rounds", {}))
        if self._diagnostics is not None and "diagnostics" in facts:
            self._diagnostics.resume(facts["diagnostics"])
        if self._best is not None:
            self._best.resume(tensors, facts, self.x)
        snapshot = facts["position"]
        if not same_workers:  # then what it says of ranks is about other clients
            snapshot = {key: value for key, value in snapshot.items() if key == "clients"}
        self._transport.resume(self.round, snapshot, self._experiment.clients_remember)
        if missing := facts.get(MISSING):
            text = f"the checkpoint of round {self.round} lacks what the clients of workers {missing} remembered; they start afresh"
            log.warning("%s", text)
            self._transport.events.append(text)
