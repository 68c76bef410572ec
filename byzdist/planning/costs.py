"""The sections on what a run costs: bytes, memory, gradients and time."""

import math
from collections.abc import Iterable

import numpy as np
import torch

from byzdist.methods.base import ClientTask
from byzdist.planning.majority import law
from byzdist.planning.page import Section, duration
from byzdist.planning.probe import Probed
from byzdist.planning.rates import samples
from byzdist.planning.subject import Subject
from byzdist.problem.client_data import PooledData
from byzdist.rounds import Memory, Round
from byzdist.runtime.experiment import Experiment
from byzdist.runtime.launcher import DEFAULT_WORKERS
from byzdist.transport.base import Shape
from byzdist.transport.wire import HAS_MODEL, HAS_PREVIOUS, HEADER_BYTES, Kind


def section(subject: Subject, experiment: Experiment, probed: Probed | None) -> Section:
    """Return the section."""
    found = Section("costs", "What a run costs")
    full, rounds = subject.full_rounds or 0.0, subject.config.rounds
    starts = bool(experiment.method.starts_full)
    sampled = rounds - full
    full += starts
    workers = _workers(subject)
    found.add("dimension", "d, the number of parameters", experiment.oracle.dimension)
    up = {kind: _up(subject, experiment, kind) for kind in (False, True)}
    down = {kind: _down(subject, experiment, kind, workers) for kind in (False, True)}
    for key, words, sizes in (
        ("up", "bytes up", up),
        ("down", f"bytes down to {workers} worker{'s'[: workers > 1]}", down),
    ):
        total = sampled * sizes[False] + full * sizes[True]
        found.add_bytes(f"bytes_{key}_sampled", f"{words}, a sampled round", sizes[False])
        found.add_bytes(f"bytes_{key}_full", f"{words}, a full round", sizes[True])
        found.add_bytes(f"bytes_{key}", f"{words}, the run", total)
    evaluations = {kind: _gradients(subject, experiment, kind) for kind in (False, True)}
    for key, words, count in (
        ("gradients_sampled", "a sampled round", evaluations[False]),
        ("gradients_full", "a full round", evaluations[True]),
        ("gradients", "the run", sampled * evaluations[False] + full * evaluations[True]),
    ):
        found.add(key, f"sample gradients, {words}", count, f"{count:,.0f}" if count < math.inf else "")
    _memory(found, subject, experiment, probed)
    if probed is not None:
        _time(found, subject, probed, sampled, full)
    return found


def _workers(subject: Subject) -> int:
    if subject.options.workers is not None:
        return min(subject.options.workers, subject.clients)
    return 1 if subject.config.transport.name == "local" else min(DEFAULT_WORKERS, subject.clients)


def _up(subject: Subject, experiment: Experiment, full: bool) -> int:
    """Return the bytes of a round's replies."""
    message = experiment.compressors[full].length(experiment.oracle.dimension, experiment.dtype)
    payload = message + 8 * len(experiment.claimed)
    return (subject.full_cohort if full else subject.cohort) * (HEADER_BYTES + payload)


def _down(subject: Subject, experiment: Experiment, full: bool, workers: int) -> float:
    """Return the expected bytes of a round's requests: one for each worker with a client in the cohort."""
    shape, n = experiment.shape(workers), subject.clients
    cohort = subject.full_cohort if full else subject.cohort
    asked = sum(1 - float(law(n, len(experiment.hosted(rank, workers)), cohort)[0]) for rank in range(1, workers + 1))
    previous = (experiment.method.sends_differences and not full) or experiment.attackers_know_estimate
    return asked * _request(shape, cohort, full, previous)


def _request(shape: Shape, cohort: int, full: bool, previous: bool) -> int:
    flags = HAS_MODEL | (HAS_PREVIOUS if previous else 0)
    kind, ids = Kind.FULL if full else Kind.SAMPLED, np.arange(cohort)
    parts = shape.frame().pack(kind, 1, ids, everyone=cohort == shape.clients, flags=flags)
    return sum(part.nbytes for part in parts)


def _gradients(subject: Subject, experiment: Experiment, full: bool) -> float:
    """Return how many sample gradients the cohort of a round computes."""
    method, held = experiment.method, np.array([min(samples(subject), 2.0**31)])
    each = float(method.evaluations(vars(method), full, held)[0])
    return (subject.full_cohort if full else subject.cohort) * each


def _memory(found: Section, subject: Subject, experiment: Experiment, probed: Probed | None) -> None:
    vector = experiment.oracle.dimension * experiment.dtype.itemsize
    rows = max(subject.full_cohort, subject.cohort) * vector
    found.add_bytes("server_vectors", "server: models, estimate and aggregate, 4 vectors of d", 4 * vector)
    found.add_bytes("server_rows", "server: the replies of the largest cohort", rows)
    if probed is not None:
        found.add_bytes("server_method", "server: what the method remembers", probed.method_bytes)
    found.add_bytes("worker_vectors", "each worker: two models and a message, 3 vectors of d", 3 * vector)
    remembered = _remembered(experiment)
    if remembered is not None:
        total = remembered * subject.clients
        found.add_bytes("client_memory", "what a client remembers, in its worker", remembered)
        found.add_bytes("clients_memory", "the same of all clients", total)


def _remembered(experiment: Experiment) -> int | None:
    """Return how many bytes a client keeps from round to round, by letting one compute a message; None without its samples."""
    if not isinstance(experiment.data, PooledData):
        return None
    if not any(experiment.honest_remember.values()):
        return 0
    method, oracle, round_ = experiment.method, experiment.oracle, Round(1, experiment.config.seed)
    compressor = experiment.compressors[False]
    x, out, of_method, of_compressor = oracle.initial(), oracle.initial(), Memory(), Memory()
    oracle.begin(round_, x)
    previous = x.clone() if method.sends_differences else None
    method.message(oracle, ClientTask(round_, 0, x, previous, of_method), out)
    payload = torch.empty(compressor.length(len(out), out.dtype), dtype=torch.uint8, device=out.device)
    compressor.encode(out, payload, round_, 0, of_compressor)
    buffers = oracle.loss.copy_buffers().values() if oracle.loss.buffers == "local" else []
    return _bytes(of_method.values()) + _bytes(of_compressor.values()) + _bytes(buffers)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _time(found: Section, subject: Subject, probed: Probed, sampled: float, full: float) -> None:
    seconds, config = probed.seconds, subject.config
    if probed.failure is not None or "sampled" not in seconds:
        found.notes.append(
            f"The probe ended early and could not estimate the time: {probed.failure or 'no sampled round came'}"
        )
        return
    total = sampled * seconds["sampled"] + full * seconds.get("full", 0.0)
    evaluations = config.rounds // config.evaluate.every + 1
    total += evaluations * probed.evaluation
    found.add("seconds_sampled", "seconds, a sampled round", seconds["sampled"])
    found.add("seconds_full", "seconds, a full round", seconds.get("full"))
    found.add("seconds_evaluation", "seconds, an evaluation", probed.evaluation)
    found.add("seconds", "time of the run", total, duration(total))
    found.notes.append(
        f"Time: from {probed.rounds} rounds in this process, one client after the other. Worker processes on other cores or hosts "
        "compute side by side, and need time for sending."
    )
