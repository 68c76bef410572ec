"""Methods with copies (EF21 and its relatives, DASHA-PAGE, Clip21) as their papers write them, in numpy loops, for the tests alone.

The problem, the rule, the draws and rand_k are those of `Reference`; everything else is written here. A run may lose replies, by
round and client, with the rule that the client's next message begins at a copy of 0.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from byzdist.randomness import stream
from tests.support.reference import Reference


class CopiesReference(Reference):
    """Runs a configuration of a method with copies; ``lost``: by round, the clients whose reply does not come."""

    def __init__(
        self,
        config: dict[str, Any],
        features: np.ndarray,
        labels: np.ndarray,
        lost: Mapping[int, Collection[int]] | None = None,
    ) -> None:
        super().__init__(config, features, labels)
        self.lost = lost or {}
        self.v: dict[int, np.ndarray] = {}  # a client's own: v_i, or h_i
        self.u: dict[int, np.ndarray] = {}
        self.noise: dict[int, np.ndarray] = {}  # in a client's last message

    @property
    def omega(self) -> float:
        """ω of an unbiased compressor; 0 for any other."""
        spec, d = self.config.get("compression", {"name": "identity"}), len(self.start)
        return d / np.ceil(spec["ratio"] * d) - 1 if spec["name"] == "rand_k" else 0.0

    def compressed(self, vector: np.ndarray, client: int, round_: int) -> np.ndarray:
        spec = self.config.get("compression", {"name": "identity"})
        if spec["name"] != "top_k":
            return super().compressed(vector, client, round_)
        k = int(np.ceil(spec["ratio"] * len(vector)))
        kept = np.zeros_like(vector)
        largest = np.argsort(-np.abs(vector))[:k]
        kept[largest] = vector[largest]
        return kept

    def message(
        self, i: int, k: int, full: bool, x: np.ndarray, x_old: np.ndarray, g: np.ndarray, afresh: bool
    ) -> np.ndarray:
        """What client i sends before compression, if its copy is g."""
        name, size = self.method["name"], self.method["batch_size"]
        batch = self.batch(i, k, size)
        if name == "byz_ef21":
            return self.gradient(x, i, None) - g
        if name == "byz_dasha_page":
            a = 1 / (2 * self.omega + 1)
            coin = stream(self.seed, "coin", 0, k).random() < self.method["p"]
            h = self.v.get(i)
            if full or coin or h is None:
                self.v[i] = self.gradient(x, i, None)
            else:
                self.v[i] = h + self.gradient(x, i, batch) - self.gradient(x_old, i, batch)
            return self.v[i] if afresh or h is None else self.v[i] - h - a * (g - h)
        gradient = self.gradient(x, i, batch)
        if name == "byz_clip21":
            beta, tau = self.method["beta1"], self.method["tau"]
            self.v[i] = (1 - beta) * self.v.get(i, np.zeros_like(x)) + beta * gradient
            c = self.v[i] - g
            c = c * min(1.0, tau / np.linalg.norm(c)) if c.any() else c
            self.noise[i] = self.method.get("sigma", 0.0) * stream(self.seed, "noise", i, k).standard_normal(len(x))
            return c + self.noise[i]
        eta = self.method["eta"]
        if name == "byz_vr_dm21":
            is_first = i not in self.v or full
            self.v[i] = gradient if is_first else gradient + (1 - eta) * (self.v[i] - self.gradient(x_old, i, batch))
        else:
            self.v[i] = (1 - eta) * self.v[i] + eta * gradient if i in self.v else gradient
        if name == "byz_ef21_sgdm":
            return self.v[i] - g
        self.u[i] = (1 - eta) * self.u[i] + eta * self.v[i] if i in self.u else self.v[i]
        return self.u[i] - g

    def run(self) -> np.ndarray:
        method = self.method
        everyone, first = range(self.n), int(method["name"] == "byz_clip21")
        x, x_old = self.start.copy(), self.start
        rows = {i: np.zeros_like(x) for i in everyone}  # the server's g_i
        quiet = dict(rows)  # the clients' g_i, the same but without noise (Islamov et al., Algorithm 1)
        known = set(everyone) if first else set()
        afresh, g = set(everyone), np.zeros_like(x)
        for k in range(first, self.config["rounds"] + 1):
            full = k == 0
            if k > 0:
                x_old, x = x, x - method["step_size"] * g
            own, clean = ({i: np.zeros_like(x) if i in afresh else held[i] for i in everyone} for held in (rows, quiet))
            sent = {i: self.message(i, k, full, x, x_old, clean[i], i in afresh) for i in everyone}
            good = {i: own[i] + sent[i] for i in everyone if i not in self.bad}
            for i in self.bad:
                estimate = own[i] + sent[i]
                forged = self.attacked(i, k, estimate, good, list(everyone), x - self.start, np.zeros_like(x), 0.0)
                if self.config["attack"]["name"] not in ("none", "label_flip"):
                    sent[i] = (forged - own[i]) / (1 if full else 1 + self.omega)
            lost = set(self.lost.get(k, ()))
            for i in set(everyone) - lost:
                c = sent[i] if full else self.compressed(sent[i], i, k)
                rows[i] = own[i] + method.get("beta2", 1.0) * c
                quiet[i] = clean[i] + method.get("beta2", 1.0) * (c - self.noise.get(i, 0.0))
            known |= set(everyone) - lost
            afresh = lost
            if self.n - len(lost) >= self.config.get("transport", {}).get("min_replies", 1):
                g = self.rule([rows[i] for i in sorted(known)], k)
        return x
