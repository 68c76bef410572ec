"""Warnings of a configuration that contradicts the theory, besides those that every run gives at its start."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from byzdist.planning.cohorts import cohorts, is_always, none_of
from byzdist.planning.majority import more_than, never
from byzdist.planning.participation import chance_of_majority
from byzdist.planning.rates import rates, recommended_p
from byzdist.planning.subject import Subject
from byzdist.reporting.logs import given_back
from byzdist.runtime.advice import largest_step

_FAR = 4.0  # a p that differs from the paper's by more than this factor is worth a warning


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect what the package warns of, instead of writing it to standard error."""
    found: list[str] = []
    logger = logging.getLogger("byzdist")
    propagates = logger.propagate
    handler = _Collecting(found)
    with given_back():
        logger.setLevel(logging.WARNING)
        logger.addHandler(handler)
        logger.propagate = False
        try:
            yield found
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagates


class _Collecting(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        if (text := record.getMessage()) not in self._found:
            self._found.append(text)


def warnings(subject: Subject) -> list[str]:
    """Return the warnings."""
    return [*_cohorts(subject), *_step(subject), *_clip(subject), *_p(subject)]


def _cohorts(subject: Subject) -> Iterator[str]:
    n, declared, full = subject.clients, subject.declared, subject.full_cohort
    configured = subject.config.clients.byzantine
    needed = -(-configured * n // declared) if declared else 1
    if subject.has_theory and full < needed:
        yield (
            f"method.full_cohort: the theorems want at least {needed} clients in a full round, the configured Byzantine ones over δ, "
            f"and there are {full}. Raise it, or declare more Byzantine clients than there are."
        )
    if declared and not subject.clips and not subject.plain_mean and is_unsafe(subject):
        chance = chance_of_majority(subject, declared) or 0.0
        yield (
            f"method.clip: without clipping a round with more than {_tolerated(subject)} Byzantine clients of {subject.rows} decides "
            f"the estimate, and with B = {declared} the run has none of them with probability {_trusted(subject):.2g} (about "
            f"{chance * subject.config.rounds:.0f} majorities are to be expected). Set method.clip to a number, or a cohort that is safe "
            "without."
        )


def is_unsafe(subject: Subject) -> bool:
    """Return whether without clipping Byzantine clients may decide a round: that no such round comes is less probable than wanted."""
    return subject.plain_mean or _trusted(subject) < subject.options.confidence


def _tolerated(subject: Subject) -> int:
    return subject.aggregator.max_byzantine(subject.rows)


def _trusted(subject: Subject) -> float:
    if is_always(subject) or subject.keeps_bank:
        chance = more_than(subject.clients, subject.declared, subject.rows, _tolerated(subject))
        return never(chance, subject.config.rounds)
    sampled = [kind for kind in cohorts(subject, subject.declared) if not kind.full]
    return none_of(lambda n, b, size: more_than(n, b, size, subject.aggregator.max_byzantine(size)), sampled)


def _step(subject: Subject) -> Iterator[str]:
    theorems, curvature = rates(subject).theorems(_which(subject)), subject.curvature
    if not theorems or curvature is None or subject.experiment is None:
        return
    step = largest_step(subject.config, subject.experiment.method)
    allowed, best = max((theorem.step(curvature.smoothness), theorem.number) for theorem in theorems)
    if step > allowed:
        yield (
            f"method.step_size: {step:.3g} is {step / allowed:.3g} times the largest step of the theorems, {allowed:.3g} (Theorem {best}). "
            "They hold for every attack and are far from tight: such a step usually works, but nothing promises it. --tune tries some."
        )


def _clip(subject: Subject) -> Iterator[str]:
    experiment, curvature = subject.experiment, subject.curvature
    if experiment is None or curvature is None or not subject.clips or not experiment.method.sends_differences:
        return
    bound = experiment.compressors[False].norm_bound(experiment.oracle.dimension)
    step = largest_step(subject.config, experiment.method)
    clip = experiment.method.clip_factor(step) / step
    if bound is not None and clip < bound * curvature.smoothness:
        yield (
            f"method.clip: {clip:.3g}·‖x^k - x^(k-1)‖ is below D_Q·L = {bound * curvature.smoothness:.3g} times that norm, which "
            "an honest client's difference can reach. If honest differences are clipped, the estimate follows the gradient more slowly."
        )


def _p(subject: Subject) -> Iterator[str]:
    p, advised = subject.parameter("p"), recommended_p(subject)
    if p is None or advised is None or 1 / _FAR <= p / advised <= _FAR:
        return
    rarely = "full rounds correct the estimate rarely" if p < advised else "most gradients are computed in full rounds"
    yield f"method.p: {p:.3g}, and min(C/n, b/m, ζ_Q/d) is {advised:.3g} [BRPP]: {rarely}."


def _which(subject: Subject) -> str:
    return "paper" if subject.options.paper_constants else "sharp"
