"""How many clients of a cohort are Byzantine: the exact law, and the cohorts that are safe without clipping.

A cohort of C is drawn uniformly without replacement from n clients, b of them Byzantine, so the number K of Byzantine ones in it
has the hypergeometric law.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]
_MAX_TRIED = 2000  # cohorts that are tried for a rule


class Safe(NamedTuple):
    """A cohort whose rounds can be trusted without clipping, and the largest number f of Byzantine clients to expect in it."""

    cohort: int
    f: int


def law(clients: int, byzantine: int, cohort: int) -> Probabilities:
    """Return P[K = k] for k = 0..cohort.

    The ratios of neighbours are summed as logarithms from the smallest possible k and scaled to a sum of 1, so nothing overflows.
    """
    low, high = max(0, cohort - (clients - byzantine)), min(byzantine, cohort)
    k = np.arange(low, high)
    ratios = (byzantine - k) * (cohort - k) / ((k + 1.0) * (clients - byzantine - cohort + k + 1))
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    weights = np.exp(logs - logs.max())
    found = np.zeros(cohort + 1)
    found[low : high + 1] = weights / weights.sum()
    return found


def more_than(clients: int, byzantine: int, cohort: int, f: int) -> float:
    """Return P[K > f]."""
    return float(law(clients, byzantine, cohort)[f + 1 :].sum())


def majority(clients: int, byzantine: int, cohort: int) -> float:
    """Return P[2K > cohort], the probability of a strict Byzantine majority."""
    return more_than(clients, byzantine, cohort, cohort // 2)


def never(chance: float, rounds: float) -> float:
    """Return the probability that an event of this chance happens in none of the rounds."""
    return 1.0 if not rounds else 0.0 if chance >= 1 else math.exp(rounds * math.log1p(-chance))


def smallest_f(clients: int, byzantine: int, cohort: int, rounds: int, confidence: float) -> int:
    """Return the smallest f with P[K <= f in all rounds] >= confidence."""
    tails = np.cumsum(law(clients, byzantine, cohort)[::-1])[::-1]  # P[K >= k]
    for f in range(min(byzantine, cohort)):
        if never(float(tails[f + 1]), rounds) >= confidence:
            return f
    return min(byzantine, cohort)


def safe_cohort(clients: int, byzantine: int, rounds: int, confidence: float) -> Safe:
    """Return the smallest cohort in which, with this confidence, Byzantine clients are less than half in all rounds.

    An even cohort 2j needs K < j as 2j - 1 does, but holds one client more; so the smallest safe one is odd. Among the odd ones the
    probability of K >= j falls with j as long as Byzantine clients are a minority of all, so bisection finds it.
    """

    def is_safe(half: int) -> bool:
        cohort = 2 * half + 1
        return never(more_than(clients, byzantine, cohort, half), rounds) >= confidence

    low, high = 0, byzantine  # a cohort of 2b + 1 is safe without any luck
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_safe(middle) else (middle + 1, high)
    cohort = 2 * low + 1
    return Safe(cohort, smallest_f(clients, byzantine, cohort, rounds, confidence))


def safe_cohort_of(
    tolerates: Callable[[int], int], clients: int, byzantine: int, rounds: int, confidence: float
) -> Safe | None:
    """Return the smallest cohort that is safe with a rule that tolerates ``tolerates(cohort)`` Byzantine vectors; None if none is found.

    At most 2000 sizes are tried, from the one of `safe_cohort` upwards; none if the rule tolerates fewer than ``byzantine`` of all
    clients.
    """
    if tolerates(clients) < byzantine:
        return None
    smallest = safe_cohort(clients, byzantine, rounds, confidence).cohort
    for cohort in range(smallest, min(clients, smallest + _MAX_TRIED) + 1):
        f = tolerates(cohort)
        if never(more_than(clients, byzantine, cohort, f), rounds) >= confidence:
            return Safe(cohort, smallest_f(clients, byzantine, cohort, rounds, confidence))
    return None


def divergence(share: float, expected: float) -> float:
    """Return D(a, q) = a ln(a/q) + (1-a) ln((1-a)/(1-q)), Kullback and Leibler's divergence of two coins; infinite for q = 0 < a."""

    def part(a: float, q: float) -> float:
        return 0.0 if a == 0 else math.inf if q == 0 else a * math.log(a / q)

    return part(share, expected) + part(1 - share, 1 - expected)


def kl_cohort(clients: int, byzantine: int, rounds: int, confidence: float) -> Safe:
    """Return the smallest cohort n̂, and its f, by FedRo's bound: b/n < f/n̂ < 1/2 and n̂ >= min(n, ln(T/(1-P)) / D(f/n̂, b/n)).

    Allouah et al., ICML 2024, condition (5): a union bound over T rounds of the Chernoff-Hoeffding tail of the hypergeometric law.
    """
    needed = math.log(rounds / (1 - confidence))
    for cohort in range(1, clients):
        f = (cohort - 1) // 2  # the larger f, the larger D
        if f * clients > byzantine * cohort and cohort * divergence(f / cohort, byzantine / clients) >= needed:
            while f * clients > byzantine * cohort and cohort * divergence(f / cohort, byzantine / clients) >= needed:
                f -= 1
            return Safe(cohort, f + 1)
    return Safe(clients, min(byzantine + 1, (clients - 1) // 2))
