"""The section on Theorems 4.1 and 4.2: the largest step size, the clipping level, and p."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from byzdist.aggregation.rules import Rule
from byzdist.methods import Sizes
from byzdist.methods.byz_vr_marina_pp import ByzVRMarinaPP
from byzdist.planning.curvature import Curvature
from byzdist.planning.page import Section, percent
from byzdist.planning.subject import Subject
from byzdist.planning.theory import Setting, Theorem, theorem_1, theorem_2


@dataclass(frozen=True)
class Rates:
    """What the theorems say of a configuration.

    Attributes:
        settings: by "sharp" and "paper", the constants F that they use.
        c_source: where c comes from; "" if it is not known.
    """

    settings: dict[str, Setting]
    c_source: str

    def theorems(self, which: str) -> list[Theorem]:
        """Return the theorems that apply with these constants."""
        setting = self.settings.get(which)
        return [] if setting is None else [found for found in (theorem_1(setting), theorem_2(setting)) if found]


def recommended_p(subject: Subject) -> float | None:
    """Return min(C/n, b/m, ζ_Q/d) [BRPP]; None for other methods, or without data."""
    experiment = subject.experiment
    if experiment is None or not isinstance(experiment.method, ByzVRMarinaPP):
        return None
    d = experiment.oracle.dimension
    if samples(subject) == math.inf:
        return None
    return (
        replace(experiment.method, p=None)
        .resolved(Sizes(subject.clients, samples(subject), d, experiment.compressors[False].nonzeros(d)))
        .p
    )


def samples(subject: Subject) -> float:
    """Return m, the mean number of samples of a client; infinite if nobody says it."""
    experiment = subject.experiment
    assert experiment is not None
    if experiment.is_private:
        return float(subject.config.data.parameters.get("samples", math.inf))
    return sum(experiment.split.size(client) for client in range(subject.clients)) / subject.clients


def rates(subject: Subject) -> Rates:
    """Return what the theorems say."""
    experiment = subject.experiment
    robustness, source = _robustness(subject)
    if not subject.has_theory or experiment is None or robustness is None:
        return Rates({}, source)
    assert isinstance(experiment.method, ByzVRMarinaPP) and experiment.method.p is not None
    compressor, d = experiment.compressors[False], experiment.oracle.dimension
    sharp = subject.aggregator.norm_bound(subject.cohort, subject.f)
    setting = Setting(
        subject.clients,
        subject.declared,
        subject.cohort,
        experiment.method.p,
        robustness,
        compressor.omega(d) if compressor.unbiased else None,
        compressor.norm_bound(d),
        sharp,
    )
    if not math.isfinite(sharp):
        return Rates({}, source)
    return Rates({"sharp": setting, "paper": replace(setting, rule_bound=_paper_bound(subject, sharp, d))}, source)


def _paper_bound(subject: Subject, sharp: float, d: int) -> float:
    """Return F as the paper takes it: √d for coordinate-wise rules, 1 for those in the span of the vectors."""
    rule = subject.aggregator.rule
    assert isinstance(rule, Rule)
    return math.sqrt(d) if rule.kind == "columns" else sharp


def _robustness(subject: Subject) -> tuple[float | None, str]:
    """Return cδ for a sampled round, and where it comes from."""
    if subject.options.c is not None:
        return subject.options.c * subject.delta, "given"
    if subject.aggregator.max_byzantine(subject.cohort) < subject.declared * subject.cohort // subject.clients:
        return None, ""
    kappa = subject.aggregator.kappa(subject.cohort, subject.f)
    if kappa is None or not math.isfinite(kappa):
        return None, ""
    source = f"cδ = κ/2 with κ = {kappa:.3g} for {subject.cohort} vectors with f = {subject.f}"
    steps = " and its steps" if subject.config.aggregation.pre else ""
    known = subject.aggregator.rule.facts.robustness.partition(";")[0]
    return kappa / 2, f"{source}, from {subject.config.aggregation.rule.name}{steps}: {known}"


def section(subject: Subject) -> Section:
    """Return the section."""
    found = Section("theory", "The losses, and what the theorems of [BRPP] allow")
    curvature = subject.curvature
    _losses(found, curvature)
    if not subject.has_theory:
        found.notes.append(
            f"Theorems 4.1 and 4.2 are about Byz-VR-MARINA-PP with whole gradients in full rounds; for {subject.config.method.name} "
            "nothing is computed."
        )
        return found
    experiment, advised = subject.experiment, recommended_p(subject)
    p = subject.parameter("p")
    found.add("p", "p, the probability of a full round", p)
    found.add("recommended_p", "p as the paper takes it, min(C/n, b/m, ζ_Q/d)", advised)
    known = rates(subject)
    if not known.settings:
        found.notes.append(_why_not(subject, known))
        return found
    setting = known.settings["sharp"]
    found.add(
        "p_G", "p_G = P(at least (1-δ)C of a cohort are honest)", setting.good_cohort, percent(setting.good_cohort)
    )
    found.add(
        "P_C", "P_C = P(a given honest client is in such a cohort)", setting.honest_share, percent(setting.honest_share)
    )
    found.add("omega", "ω of the compressor", setting.omega)
    found.add("D_Q", "D_Q of the compressor", setting.compressor_bound)
    found.add("c_delta", "cδ of the (δ,c)-robust rule", setting.robustness)
    found.notes.append(f"c: {known.c_source}. The theorems need it only as cδ.")
    if experiment is not None and not experiment.compressors[False].independent:
        found.notes.append(
            "The compressor draws the same for all clients of a round; the theorems are proved for independent draws alone."
        )
    bounds = {which: found.rule_bound for which, found in known.settings.items()}
    _both(found, "F", "F of the rule, ‖rule(v)‖ ≤ F·max‖v‖", bounds)
    for theorems in zip(*(known.theorems(which) for which in known.settings), strict=True):
        _theorem(found, dict(zip(known.settings, theorems, strict=True)), curvature)
    if curvature is not None and curvature.heterogeneity:
        found.notes.append(
            "Where honest clients differ, the theorems lead to a neighbourhood of the minimum whose size grows with ζ²; ρ is the rate "
            "until then."
        )
    return found


def _both(found: Section, key: str, words: str, values: dict[str, float]) -> None:
    """Add what follows from the sharp F, and beside it what follows from the paper's."""
    sharp, paper = f"{values['sharp']:.3g}", f"{values['paper']:.3g}"
    found.add(key, words, values, sharp if sharp == paper else f"{sharp} (the paper's F: {paper})")


def _why_not(subject: Subject, known: Rates) -> str:
    if subject.experiment is None:
        return "The rest needs the data."
    if known.c_source:
        return "No bound F is known for this rule, so A cannot be computed."
    expected = subject.declared * subject.cohort // subject.clients
    tolerated = subject.aggregator.max_byzantine(subject.cohort)
    if tolerated < expected:
        return f"Of {subject.cohort} vectors the rule tolerates {tolerated}, and δC is {expected}: the theorems do not apply."
    rule, steps = subject.config.aggregation.rule.name, " with these steps" if subject.config.aggregation.pre else ""
    return f"The constant c of {rule}{steps} is not known; give it with --c, and A and the step sizes follow."


def _losses(found: Section, curvature: Curvature | None) -> None:
    if curvature is None:
        found.notes.append(
            "L is not known, without data or with a loss that is flat at x^0. Give it with --lipschitz, and μ with --pl."
        )
        return
    found.add("L", "L: gradients of every batch are L-Lipschitz", curvature.smoothness)
    found.add("L_of_mean", "the same of the mean loss f", curvature.of_mean)
    found.notes.append(f"L: {curvature.source}.")
    shown = "not known; give it with --pl" if curvature.mu is None else f"{curvature.mu:.3g} ({curvature.mu_source})"
    found.add("mu", "μ of the Polyak-Łojasiewicz condition", curvature.mu, shown)
    if curvature.heterogeneity is not None:
        found.add("zeta_squared", "ζ² at x^0: how much honest clients' gradients differ", curvature.heterogeneity)


def _theorem(found: Section, theorems: dict[str, Theorem], curvature: Curvature | None) -> None:
    """Add what a theorem allows with each F."""
    number = theorems["sharp"].number
    key, name = f"theorem_{number}", f"Theorem {number}"

    def add(what: str, words: str, value: Callable[[Theorem], float]) -> None:
        _both(
            found, f"{key}_{what}", f"{name}: {words}", {which: value(theorem) for which, theorem in theorems.items()}
        )

    add("A", "A", lambda theorem: theorem.A)
    if curvature is None:
        return
    L, mu = curvature.smoothness, curvature.mu
    found.add(f"{key}_clip", f"{name}: method.clip, in λ = clip·‖x^k - x^(k-1)‖", theorems["sharp"].level * L)
    add("step", "largest step size γ", lambda theorem: theorem.step(L))
    if mu:

        def rate(theorem: Theorem) -> float:
            return theorem.rate(theorem.step(L, pl=True), mu)

        add("step_pl", "largest γ under the PŁ condition", lambda theorem: theorem.step(L, pl=True))
        add("rate", "its ρ, f(x^k) - f(x*) falling by (1-ρ)^k", rate)
        add(
            "rounds_to_a_tenth",
            "rounds to a tenth of the gap",
            lambda theorem: math.log(10) / -math.log1p(-rate(theorem)),
        )
