"""Algorithm 1 of the paper and its relatives in one process, written for the tests alone: numpy loops, no shared code.

Only what defines a run is taken from byzdist: the keys of the random draws (`stream`, `draw_mask`). The loss is that of logistic
regression with l2·‖x‖²; the split is shared or iid; the rule is coordinate-wise median, trimmed mean or Krum, with bucketing or
without. Sums run in another order than in byzdist, so results agree to rounding, not bit for bit.
"""

from typing import Any

import numpy as np
from scipy.stats import norm

from byzdist.compression.rand_k import draw_mask
from byzdist.randomness import stream


class Reference:
    """Runs a configuration (a plain mapping, as in the YAML file) on features [N, d] and labels 0..L-1 [N]."""

    def __init__(self, config: dict[str, Any], features: np.ndarray, labels: np.ndarray) -> None:
        self.config, self.method, self.attack = config, config["method"], config.get("attack", {"name": "none"})
        self.seed = config["seed"]
        self.n, self.bad_count = config["clients"]["count"], config["clients"].get("byzantine", 0)
        self.bad = set(range(self.n - self.bad_count, self.n))
        self.declared = config["aggregation"].get("declared_byzantine", self.bad_count)
        self.features, self.labels, self.classes = features, labels, int(labels.max()) + 1
        self.held = [np.arange(len(labels))] * self.n
        split = config["data"].get("split", "shared")
        if split != "shared":
            shards = self.n if split == {"name": "iid", "holders": "all"} else self.n - self.bad_count
            order = stream(self.seed, "split").permutation(len(labels))
            owner = np.arange(len(labels)) * shards // len(labels)
            self.held = [np.sort(order[owner == client % shards]) for client in range(self.n)]
        self.eta = config["model"]["l2"]
        self.start = np.zeros(features.shape[1] * (1 if self.classes == 2 else self.classes))
        self.momentum: dict[int, np.ndarray] = {}

    def gradient(self, x: np.ndarray, client: int, batch: np.ndarray | None) -> np.ndarray:
        rows = self.held[client] if batch is None else self.held[client][batch]
        features, labels = self.features[rows], self.labels[rows]
        if self.attack["name"] == "label_flip" and client in self.bad:
            labels = self.classes - 1 - labels
        if self.classes == 2:
            signs = 2.0 * labels - 1
            weights = -signs / (1 + np.exp(signs * (features @ x)))
            return features.T @ weights / len(rows) + 2 * self.eta * x
        scores = np.exp(features @ x.reshape(self.classes, -1).T)
        errors = scores / scores.sum(axis=1, keepdims=True) - (labels[:, None] == np.arange(self.classes))
        return (errors.T @ features).ravel() / len(rows) + 2 * self.eta * x

    def batch(self, client: int, round_: int, size: int) -> np.ndarray:
        key = 0 if self.method.get("batches") == "shared" else client
        return stream(self.seed, "batch", key, round_).choice(len(self.held[client]), size, replace=False)

    def honest(self, client: int, round_: int, full: bool, x: np.ndarray, x_old: np.ndarray) -> np.ndarray:
        name, size = self.method["name"], self.method["batch_size"]
        if name in ("sgd", "momentum_sgd"):
            gradient = self.gradient(x, client, self.batch(client, round_, size))
            if name == "sgd":
                return gradient
            beta = self.method["momentum"]
            held = self.momentum.get(client)
            self.momentum[client] = gradient if held is None else beta * held + (1 - beta) * gradient
            return self.momentum[client]
        if full:
            b = self.method.get("full_batch", "all")
            return self.gradient(x, client, None if b == "all" else self.batch(client, round_, b))
        batch = self.batch(client, round_, size)
        return self.gradient(x, client, batch) - self.gradient(x_old, client, batch)

    def attacked(
        self,
        client: int,
        round_: int,
        own: np.ndarray,
        good: dict[int, np.ndarray],
        cohort: list[int],
        drift: np.ndarray,
        g: np.ndarray,
        level: float,
    ) -> np.ndarray:
        """What a Byzantine client sends; ``drift`` is x - x0, ``level`` the clipping level, 0 in full rounds."""
        base = g if self.method["name"].startswith("byz_vr_marina") and level else np.zeros_like(g)
        name = self.attack["name"]
        byzantine = len(self.bad & set(cohort))
        flipped = 0 if self.attack.get("form") == "difference" else base  # from what an attack turns around
        if name in ("none", "label_flip"):
            return own
        if name == "bit_flip":
            return -(flipped + own) - flipped
        if name == "gaussian":
            noise = stream(self.seed, "attack", client, round_).standard_normal(len(own))
            return self.attack.get("sigma", 1.0) * noise
        if name == "zero":
            return np.zeros_like(own)
        if name in ("inf", "nan"):
            return np.full_like(own, float(name))
        if name == "shift_back":
            scale = self.attack.get("scale", 1.0)
            pull = drift / self.method["step_size"] if scale == "auto" else scale * drift
            return pull - base if 2 * byzantine > len(cohort) else own
        if name == "tests.support.attacks:along":
            read = self.compressed(g, client, round_) if level else g
            push = g * ((level if 0 < level < np.inf else 1e6) / np.linalg.norm(read)) if read.any() else g
            return push if base.any() or not level else push + g
        vectors = list(good.values()) or [own]
        if name == "ipm":
            return -self.attack.get("epsilon", 0.1) * (flipped + np.mean(vectors, axis=0)) - flipped
        if name == "alie":
            supporters = self.n // 2 + 1 - self.bad_count  # honest ones that are to lie farther out than the attackers
            z = max(0.0, float(norm.isf(supporters / (self.n - self.bad_count))))
            ddof = self.attack.get("ddof", 0) if len(vectors) > 1 else 0
            return np.mean(vectors, axis=0) - z * (np.std(vectors, axis=0, ddof=ddof) if good else 0.0)
        assert name == "mimic"
        target = self.attack.get("target", "worst")
        if target == "worst":
            left, _, _ = np.linalg.svd(vectors - np.mean(vectors, axis=0), full_matrices=False)
            return vectors[int(np.argmax(np.round(np.abs(left[:, 0]), 6)))]
        for candidate in [*range(target, self.n), *range(target)]:
            if candidate in good:
                return good[candidate]
        return own

    def compressed(self, vector: np.ndarray, client: int, round_: int) -> np.ndarray:
        spec = self.config.get("compression", {"name": "identity"})
        if spec["name"] == "identity":
            return vector
        k = int(np.ceil(spec["ratio"] * len(vector)))
        shared = spec.get("support") == "shared"
        keys = ("shared mask", 0) if shared else ("mask", client)
        mask = draw_mask(stream(self.seed, *keys, round_), len(vector), k).numpy()
        kept = np.zeros_like(vector)
        kept[mask] = vector[mask] * len(vector) / k
        return kept

    def rule(self, vectors: list[np.ndarray], round_: int) -> np.ndarray:
        """The rule after bucketing, as configured."""
        f = self.declared * len(vectors) // self.n
        steps = self.config["aggregation"].get("pre", [])
        if steps:
            size = steps[0]["size"]
            order = stream(self.seed, "aggregation", 0, round_).permutation(len(vectors))
            groups = [order[i : i + size] for i in range(0, len(order), size)]
            vectors = [np.mean([vectors[j] for j in group], axis=0) for group in groups]
        name, n = self.config["aggregation"]["rule"], len(vectors)
        if name == "coordinate_median":
            return np.median(vectors, axis=0)
        if name == "trimmed_mean":
            f = min(f, (n - 1) // 2)
            return np.sort(vectors, axis=0)[f : n - f].mean(axis=0)
        assert name == "krum"
        f = min(f, max(0, (n - 3) // 2))
        distances = [sorted(np.sum((v - w) ** 2) for w in vectors)[1:] for v in vectors]
        return vectors[int(np.argmin([sum(others[: max(1, n - f - 2)]) for others in distances]))]

    def run(self) -> np.ndarray:
        method = self.method
        marina = method["name"].startswith("byz_vr_marina")
        gamma, alpha = method["step_size"], method.get("clip", "none" if method["name"] == "byz_vr_marina" else 1.0)
        c, c_full = method.get("cohort") or self.n, method.get("full_cohort") or self.n
        x, g = self.start.copy(), np.zeros_like(self.start)
        x_old, growth = x, method.get("clip_growth", 2.0)
        last_full, above, called = (
            None,
            0,
            None,
        )  # |g| of the last full round, rounds above its multiple, a round to be full
        for round_ in range(self.config["rounds"] + 1):
            if round_ == 0 and method.get("g0", "full") == "zero":
                continue
            full = round_ in (0, called) or (marina and stream(self.seed, "coin", 0, round_).random() < method["p"])
            size = c_full if full else c
            cohort = list(range(self.n))
            if size < self.n:
                cohort = sorted(stream(self.seed, "cohort", 0, round_).choice(self.n, size, replace=False).tolist())
            if round_ > 0:
                x_old, x = x, x - gamma * g
            sent = {i: self.honest(i, round_, full, x, x_old) for i in cohort}
            good = {i: v for i, v in sent.items() if i not in self.bad}
            level = 0.0 if full else np.inf
            if alpha != "none" and not full:
                size = np.linalg.norm(g)
                if last_full is not None and growth != "none":
                    above = above + 1 if size > growth * last_full else 0
                    called = round_ + 1 if above >= 3 and called is None else called
                    size = min(size, growth * last_full)
                level = alpha * size * (1 if method.get("clip_reference") == "gradient" else gamma)
                level = min(level, method.get("clip_max", np.inf))
            for i in set(cohort) & self.bad:
                sent[i] = self.attacked(i, round_, sent[i], good, cohort, x - self.start, g, level)
            if not full:
                sent = {i: self.compressed(v, i, round_) for i, v in sent.items()}
            vectors = [v for _, v in sorted(sent.items()) if np.isfinite(v).all()]
            if not vectors:
                continue
            if full:
                g = self.rule(vectors, round_)
                last_full, above, called = np.linalg.norm(g), 0, None
                continue
            around = np.zeros_like(g) if marina or alpha == "none" else g
            deviations = [v - around for v in vectors]
            clipped = [v * min(1.0, level / np.linalg.norm(v)) if v.any() else v for v in deviations]
            step = np.mean(clipped, axis=0) if method["name"].endswith("plus") else self.rule(clipped, round_)
            g = g + step if marina else around + step
        return x
