"""Theorems 4.1 and 4.2 of [BRPP]: the largest step size of Byz-VR-MARINA-PP, the clipping level, and the rate."""

import math
from dataclasses import dataclass

from byzdist.planning.majority import law


@dataclass(frozen=True)
class Setting:
    """What the theorems depend on, besides the smoothness.

    Attributes:
        clients: n.
        declared: B; the theorems take the share δ = B/n, and G = n - B.
        cohort: C.
        p: the probability of a full round.
        robustness: cδ, the constant of the (δ,c)-robust rule [BRPP Def. 2.1], which enters only as this product.
        omega: ω of the compressor; None: it is not unbiased, or ω is not known.
        compressor_bound: D_Q of the compressor; None: it is not known.
        rule_bound: F with ‖rule(v_1..v_C)‖ <= F max ‖v_i‖.
    """

    clients: int
    declared: int
    cohort: int
    p: float
    robustness: float
    omega: float | None
    compressor_bound: float | None
    rule_bound: float

    @property
    def _bad(self) -> int:
        """The largest number of Byzantine clients with which a cohort is good: floor(δC)."""
        return self.declared * self.cohort // self.clients

    @property
    def good_cohort(self) -> float:
        """p_G, the probability that at least (1-δ)C of a cohort are honest."""
        return float(law(self.clients, self.declared, self.cohort)[: self._bad + 1].sum())

    @property
    def honest_share(self) -> float:
        """P_C, the probability that a given honest client is in a cohort, given that the cohort is good."""
        others = law(self.clients - 1, self.declared, self.cohort - 1)[: self._bad + 1]  # one honest client is drawn
        return self.cohort / (self.clients * self.good_cohort) * float(others.sum())

    @property
    def _drawn(self) -> float:
        """p_G G P_C / ((1-δ)C), in which both theorems agree."""
        honest = self.clients - self.declared
        return self.good_cohort * honest * self.honest_share / (honest / self.clients * self.cohort)


@dataclass(frozen=True)
class Theorem:
    """What a theorem allows.

    Attributes:
        number: as in the paper.
        A: the constant in the step size.
        level: λ/(L‖x^k - x^{k-1}‖), 2 or D_Q, so that `method.clip` is this times L.
        rate_of_p: ρ is at most this.
    """

    number: str
    A: float
    level: float
    rate_of_p: float

    def step(self, smoothness: float, *, pl: bool = False) -> float:
        """Return the largest γ, 1/(L(1+√A)), under the Polyak-Łojasiewicz condition (``pl``) 1/(L(1+√(2A)))."""
        return 1 / (smoothness * (1 + math.sqrt((1 + pl) * self.A)))

    def rate(self, step: float, mu: float) -> float:
        """Return ρ: under the Polyak-Łojasiewicz condition with μ, f(x^k) - f(x*) falls as (1-ρ)^k, up to a constant."""
        return min(step * mu, self.rate_of_p)


def theorem_1(s: Setting) -> Theorem | None:
    """Return Theorem 4.1, for any unbiased compressor; None if ω is not known."""
    if s.omega is None:
        return None
    sampled = 32 * s._drawn / s.p**2 * (30 * s.omega + 11) * (1 + 2 * s.robustness)
    rest = 16 * (1 - s.good_cohort) * (1 + 4 * s.rule_bound**2) / s.p**2
    return Theorem("4.1", sampled + rest, 2.0, s.p / 8)


def theorem_2(s: Setting) -> Theorem | None:
    """Return Theorem 4.2, for a compressor with ‖Q(v)‖ <= D_Q‖v‖; None if ω or D_Q is not known."""
    if s.omega is None or s.compressor_bound is None:
        return None
    honest = (s.clients - s.declared) / s.clients * s.cohort
    inner = (3 * s.omega + 2) / honest + 8 * (5 * s.omega + 4) * s.robustness / s.p
    sampled = 4 * s._drawn / s.p * inner
    rest = 8 * (1 - s.good_cohort) * (2 + (s.rule_bound * s.compressor_bound) ** 2) / s.p**2
    return Theorem("4.2", sampled + rest, s.compressor_bound, s.p / 4)
