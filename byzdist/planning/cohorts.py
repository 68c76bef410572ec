"""Describes a run's cohorts: how many clients can take part in each round, and how many of them are Byzantine."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from byzdist.participation import AVAILABILITY
from byzdist.planning.majority import never
from byzdist.planning.subject import Subject
from byzdist.rounds import Round

_LOOKED_AT = 5000  # rounds for which an availability model is asked; longer runs are taken to go on alike


@dataclass(frozen=True)
class Cohorts:
    """Rounds that draw alike.

    Attributes:
        full: whether they are full rounds.
        clients, byzantine: how many clients can take part, and how many of them are Byzantine.
        size: how many are drawn.
        rounds: how many such rounds the run has.
    """

    full: bool
    clients: int
    byzantine: int
    size: int
    rounds: float


Chance = Callable[[int, int, int], float]
"""The probability of an event in a round, by `Cohorts.clients`, `Cohorts.byzantine` and `Cohorts.size`."""


def cohorts(subject: Subject, byzantine: int) -> list[Cohorts]:
    """Return the rounds 1..T by how they draw, if the last ``byzantine`` clients are the Byzantine ones.

    An availability model is asked who can take part in the rounds of this run, with its seed.
    """
    n, rounds, full_rounds = subject.clients, subject.config.rounds, subject.full_rounds or 0.0
    sizes, share = (subject.cohort, subject.full_cohort), full_rounds / rounds
    if is_always(subject):
        return [
            Cohorts(full, n, byzantine, sizes[full], rounds * (share if full else 1 - share)) for full in (False, True)
        ]
    model = AVAILABILITY.bind(subject.config.clients.availability, "clients.availability")
    looked_at, counted = min(rounds, _LOOKED_AT), defaultdict[tuple[bool, int, int], float](float)
    for number in range(1, looked_at + 1):
        round_ = Round(number, subject.config.seed)
        if subject.experiment is not None:
            share = float(subject.experiment.method.is_full(round_))
        for full, weight in ((False, 1 - share), (True, share)):
            if weight:
                able = model(Round(number, subject.config.seed, full), n)
                ids = np.arange(n) if able is None else np.asarray(able)
                counted[full, len(ids), int((ids >= n - byzantine).sum())] += weight * rounds / looked_at
    return [Cohorts(*kind, min(sizes[kind[0]], kind[1]), count) for kind, count in sorted(counted.items())]


def is_always(subject: Subject) -> bool:
    """Return whether all clients can take part in every round."""
    return subject.config.clients.availability.name == "always"


def mean(chance: Chance, among: Sequence[Cohorts]) -> float:
    """Return the mean of an event's probability over rounds; if there are none, its probability in the first kind of them."""
    total = sum(kind.rounds for kind in among)
    found = [(kind.rounds, chance(kind.clients, kind.byzantine, kind.size)) for kind in among]
    if total:
        return sum(rounds * each for rounds, each in found) / total
    return found[0][1] if found else 0.0


def none_of(chance: Chance, among: Sequence[Cohorts]) -> float:
    """Return the probability that an event happens in no round."""
    product = 1.0
    for kind in among:
        product *= never(chance(kind.clients, kind.byzantine, kind.size), kind.rounds)
    return product
