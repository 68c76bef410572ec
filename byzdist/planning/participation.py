"""The section on cohorts: how often Byzantine clients are a majority, and which cohort could do without clipping."""

from byzdist.planning.cohorts import cohorts, is_always, mean, none_of
from byzdist.planning.majority import Safe, kl_cohort, majority, safe_cohort, safe_cohort_of
from byzdist.planning.page import Section, percent
from byzdist.planning.subject import Subject


def chance_of_majority(subject: Subject, byzantine: int) -> float | None:
    """Return the probability that a round, sampled or full, has a Byzantine majority; None where p is not known."""
    return None if subject.full_rounds is None else mean(majority, cohorts(subject, byzantine))


def section(subject: Subject) -> Section:
    """Return the section."""
    n, declared, rounds = subject.clients, subject.declared, subject.config.rounds
    configured, confidence = subject.config.clients.byzantine, subject.options.confidence
    found = Section("participation", "Who is in a round")
    found.add("clients", "clients n", n)
    found.add(
        "declared",
        "declared Byzantine clients B, and their share δ = B/n",
        declared,
        f"{declared}, δ = {subject.delta:.3g}",
    )
    found.add("cohort", "cohort of a sampled round C", subject.cohort)
    found.add("full_cohort", "cohort of a full round Ĉ", subject.full_cohort)
    full = subject.full_rounds
    shown = "not known without the data" if full is None else f"{full:,.0f} of {rounds:,}"
    found.add("full_rounds", "full rounds that the seed draws", full, shown)
    if not is_always(subject):
        _available(found, subject)
    for key, byzantine, words in (("declared", declared, "B ="), ("configured", configured, "the configured")):
        if key == "configured" and byzantine == declared:
            continue
        _majorities(found, subject, f"with_{key}", byzantine, f"{words} {byzantine}")
    safe = safe_cohort(n, declared, rounds, confidence)
    held = f"in all {rounds:,} rounds with probability {confidence:g}"
    _safe(found, "safe_cohort", f"smallest C with fewer Byzantine clients than half {held}", safe)
    bound = kl_cohort(n, declared, rounds, confidence)
    _safe(found, "safe_cohort_by_kl", "the same by FedRo's bound (condition 5, KL divergence)", bound)
    _own_rule(found, subject)
    return found


def _available(found: Section, subject: Subject) -> None:
    """Add how many clients can take part, and what on the page does not count with that."""
    kinds = cohorts(subject, 0)
    average, least = mean(lambda clients, byzantine, size: clients, kinds), min(kind.clients for kind in kinds)
    words = f"{average:.3g} on average, at least {least}"
    found.add("available", "clients that can take part in a round", {"mean": average, "least": least}, words)
    found.notes.append(
        "The probabilities are those of cohorts drawn from the clients that can take part in each round of this run "
        "(clients.availability). Safe cohorts, theorems and costs are for rounds in which all can."
    )


def _majorities(found: Section, subject: Subject, key: str, byzantine: int, who: str) -> None:
    n, rounds, kinds = subject.clients, subject.config.rounds, cohorts(subject, byzantine)
    sampled, in_full = (mean(majority, [kind for kind in kinds if kind.full is full]) for full in (False, True))
    found.add(f"majority_{key}", f"P(Byzantine majority in a sampled cohort), {who} of {n}", sampled, percent(sampled))
    if in_full:
        found.add(
            f"full_majority_{key}",
            "P(Byzantine majority in a full cohort), which is not clipped",
            in_full,
            percent(in_full),
        )
    chance = chance_of_majority(subject, byzantine)
    if chance is None:
        return
    first = 1 / chance if chance else None
    found.add(
        f"rounds_to_first_{key}",
        "rounds to the first such round, expected",
        first,
        f"{first:,.3g}" if first else "it cannot come",
    )
    none = none_of(majority, kinds)
    found.add(f"none_in_run_{key}", f"P(a run of {rounds:,} rounds has none)", none, percent(none))


def _safe(found: Section, key: str, words: str, safe: Safe) -> None:
    found.add(key, words, safe._asdict(), f"{safe.cohort}, and f = {safe.f} for it")


def _own_rule(found: Section, subject: Subject) -> None:
    """Add the smallest cohort in which the configured steps and rule are safe without clipping."""
    rule, n = subject.config.aggregation.rule.name, subject.clients
    words = f"smallest C that is safe without clipping with {rule}" + (
        " and its steps" if subject.config.aggregation.pre else ""
    )
    if subject.plain_mean:
        found.add("safe_cohort_of_rule", words, None, "none: sampled rounds are a plain mean")
        return
    if subject.rows > subject.cohort:
        found.notes.append(
            "In sampled rounds the rule works on a row of every client, so a cohort with a Byzantine majority decides nothing."
        )
        return
    rounds, confidence = subject.config.rounds, subject.options.confidence
    safe = safe_cohort_of(subject.aggregator.max_byzantine, n, subject.declared, rounds, confidence)
    if safe is None:
        found.add("safe_cohort_of_rule", words, None, "none")
        return
    declare = -(-safe.f * n // safe.cohort)
    _safe(found, "safe_cohort_of_rule", words, safe)
    if safe.f > subject.declared * safe.cohort // n and 2 * declare < n:
        found.add("declare_for_f", "aggregation.declared_byzantine that makes floor(δC) this f", declare)
