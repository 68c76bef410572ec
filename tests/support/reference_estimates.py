"""Methods in which clients send full estimates, after the pseudo-code of their papers: numpy loops for the tests alone.

Each method is one function, which returns how a round's rows come from what the cohort sends.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from byzdist.randomness import stream
from tests.support.reference import Reference

Array = np.ndarray
Sent = dict[int, Array]
Client = Callable[[int], Array]


class Estimates(Reference):
    """Runs a configuration of demoa, rosdhb, byz_nsgdm or local_steps; attributes and arguments as for `Reference`."""

    def run(self) -> Array:
        method = self.method
        gamma, alpha = method["step_size"], method.get("clip", "none")
        x, g, clients_work = self.start.copy(), np.zeros_like(self.start), getattr(self, method["name"])()
        optimizer, x_old, momenta = method.get("server_optimizer"), x, {}
        if method["name"] == "byz_nsgdm":
            optimizer = "normalized"
        for k in range(self.config["rounds"] + 1):
            if k == 0 and method.get("g0") == "zero":
                continue
            if k > 0:
                step = gamma if isinstance(gamma, float) else gamma["value"] / k**0.5  # the schedule `power`: round k-1
                x_old, x = x, x - step * outer(optimizer, g, momenta, k)
            clipped = alpha != "none" and k > 0
            level = (
                alpha * np.linalg.norm(x - x_old if method.get("clip_reference") != "gradient" else g)
                if clipped
                else np.inf
            )
            rows = clients_work(k, x, partial(self.exchange, k, x, g, level if k else 0.0))
            g = g + self.rule([shortened(row - g, level) for row in rows], k) if clipped else self.rule(rows, k)
        return x

    def exchange(self, k: int, x: Array, g: Array, level: float, client: Client) -> Sent:
        """What the server gets in a round: all send in round 0, uncompressed, a cohort afterwards."""
        size = self.method.get("cohort") or self.n
        cohort = list(range(self.n))
        if k > 0 and size < self.n:
            cohort = sorted(stream(self.seed, "cohort", 0, k).choice(self.n, size, replace=False).tolist())
        sent = {i: client(i) for i in cohort}
        good = {i: vector for i, vector in sent.items() if i not in self.bad}
        for i in set(cohort) & self.bad:
            sent[i] = self.attacked(i, k, sent[i], good, cohort, x - self.start, g, level)
        return {i: vector if k == 0 else self.compressed(vector, i, k) for i, vector in sent.items()}

    def rule(self, vectors: list[Array], round_: int) -> Array:
        """The rule after nnm, if that is the step before it, else as `Reference` has it."""
        if self.config["aggregation"]["pre"] != ["nnm"]:
            return super().rule(vectors, round_)
        kept = len(vectors) - self.declared * len(vectors) // self.n
        nearest = [sorted(vectors, key=lambda w: float(np.linalg.norm(v - w)))[:kept] for v in vectors]
        return np.median([np.mean(near, axis=0) for near in nearest], axis=0)

    def sampled_gradient(self, k: int, x: Array) -> Client:
        return lambda i: self.gradient(x, i, self.batch(i, k, self.method["batch_size"]))

    def demoa(self) -> Callable[..., list[Array]]:
        """Otsuka et al.: a client updates its momentum when it is sampled; the server decays what it has of the others."""
        alpha, p = self.method["alpha"], self.method["cohort"] / self.n
        last: dict[int, tuple[int, Array]] = {}  # when a client was last sampled, and its momentum then
        if self.method.get("g0") == "zero":
            last = {i: (0, np.zeros_like(self.start)) for i in range(self.n)}

        def delayed(i: int, k: int) -> Array:
            return np.prod([1 - alpha * p for _ in range(last[i][0], k)]) * last[i][1]

        def work(k: int, x: Array, exchange: Callable[[Client], Sent]) -> list[Array]:
            for i, gradient in exchange(self.sampled_gradient(k, x)).items():
                fresh = gradient if k == 0 else (1 - alpha * p) * delayed(i, k - 1) + alpha * gradient
                last[i] = (k, fresh)
            return [delayed(i, k) for i in range(self.n)]

        return work

    def rosdhb(self) -> Callable[..., list[Array]]:
        """Gupta et al.: m_i = β m_i + (1 - β) g_i; with sampling, the others decay on average as much."""
        beta, p = self.method["momentum"], (self.method.get("cohort") or self.n) / self.n
        momenta: Sent = {}

        def work(k: int, x: Array, exchange: Callable[[Client], Sent]) -> list[Array]:
            received = exchange(self.sampled_gradient(k, x))
            for i in range(self.n):
                if k == 0:
                    momenta[i] = received[i]
                elif p == 1:
                    momenta[i] = beta * momenta[i] + (1 - beta) * received[i]
                else:
                    momenta[i] = (1 - (1 - beta) * p) * momenta[i] + (1 - beta) * received.get(i, np.zeros_like(x))
            return list(momenta.values())

        return work

    def byz_nsgdm(self) -> Callable[..., list[Array]]:
        """Bolatov et al.: momentum at the workers; `run` normalizes."""
        beta, momenta = self.method["momentum"], {}

        def work(k: int, x: Array, exchange: Callable[[Client], Sent]) -> list[Array]:
            def client(i: int) -> Array:
                gradient = self.sampled_gradient(k, x)(i)
                momenta[i] = beta * momenta[i] + (1 - beta) * gradient if i in momenta else gradient
                return momenta[i]

            return list(exchange(client).values())

        return work

    def local_steps(self) -> Callable[..., list[Array]]:
        """FedAvg and DiLoCo: H inner steps, then the way that the client went."""
        inner, states = self.method["inner"], {}

        def client(i: int, k: int, x: Array) -> Array:
            y, state = x.copy(), states.get(i, {}) if self.method.get("remember_inner") else {}
            for h in range(self.method["steps"]):
                draws = stream(self.seed, f"batch {h}" if h else "batch", i, k)
                gradient = self.gradient(
                    y, i, draws.choice(len(self.held[i]), self.method["batch_size"], replace=False)
                )
                y = y - inner["step_size"] * (inner.get("weight_decay", 0.0) * y + direction(inner, gradient, state))
            states[i] = state
            return x - y

        def work(k: int, x: Array, exchange: Callable[[Client], Sent]) -> list[Array]:
            return list(exchange(lambda i: client(i, k, x)).values())

        return work


def shortened(vector: Array, level: float) -> Array:
    length = np.linalg.norm(vector)
    return vector * min(1.0, level / length) if length else vector


def adam(gradient: Array, state: dict[str, Any], beta1: float, beta2: float) -> Array:
    state["t"] = state.get("t", 0) + 1
    state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * gradient
    state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * gradient**2
    return state["m"] / (1 - beta1 ** state["t"]) / (np.sqrt(state["v"] / (1 - beta2 ** state["t"])) + 1e-8)


def direction(inner: dict[str, Any], gradient: Array, state: dict[str, Any]) -> Array:
    if inner["name"] == "adamw":
        return adam(gradient, state, 0.9, inner.get("beta2", 0.999))
    if inner["name"] == "momentum":
        state["m"] = 0.9 * state.get("m", 0.0) + gradient
        return state["m"]
    return gradient


def outer(optimizer: str | None, g: Array, state: dict[str, Any], k: int) -> Array:
    """The direction of the step to x^k."""
    if optimizer == "normalized":
        return g / np.linalg.norm(g)
    if optimizer == "nesterov":
        state["m"] = 0.9 * state.get("m", 0.0) + g
        return g + 0.9 * state["m"]
    return adam(g, state, 0.9, 0.999) if optimizer == "adam" else g
