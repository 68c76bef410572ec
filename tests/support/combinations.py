"""Configurations drawn at random from nearly everything that can be configured, and the user's own pieces that some of them name."""

import random
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

RULES: list[Any] = [
    "mean",
    "coordinate_median",
    "trimmed_mean",
    "meamed",
    "geometric_median",
    "krum",
    "multi_krum",
    "centered_clip",
    "mda",
    "monna",
]
RULES += ["caf", "cge", {"name": "ctma", "rule": "krum"}]
ATTACKS = ["none", "bit_flip", "label_flip", "gaussian", "alie", "ipm", "mimic", "shift_back", "zero", "inf", "nan"]
OF_ESTIMATES = ["sgd", "momentum_sgd", "demoa", "rosdhb", "local_steps"]
OF_ALL = [
    "byz_vr_marina",
    "byz_nsgdm",
    "byz_ef21",
    "byz_ef21_sgdm",
    "byz_dm21",
    "byz_vr_dm21",
    "byz_dasha_page",
    "byz_clip21",
]
METHODS = ["byz_vr_marina_pp", "byz_vr_marina_pp_plus", *OF_ESTIMATES, *OF_ALL]
STEP_SIZES: list[Any] = [
    0.05,
    {"name": "cosine", "value": 0.1, "last": 0.01, "rounds": 10},
    {"name": "power", "value": 0.1},
]
SPLITS: list[Any] = ["iid", "shared", "by_label", {"name": "dirichlet", "alpha": 0.5}]
OWN = "tests.support.combinations"
PRIVATE = {"where": "worker", "features": [8], "outputs": 3}
TOP_K = {"name": "top_k", "ratio": 0.2}
COMPRESSIONS: list[dict[str, Any] | None] = [
    None,
    None,
    {"name": "rand_k", "ratio": 0.3},
    {"name": "rand_k", "ratio": 0.3, "support": "shared"},
    TOP_K,
]
COMPRESSIONS += [{"name": "qsgd"}, {"name": "natural"}]
COMPRESSIONS += [{"name": "error_feedback", "compressor": one} for one in (TOP_K, {"name": "qsgd"})]


class Noisy(torch.utils.data.Dataset):
    """Three classes, with noise that differs at each reading."""

    def __init__(self, count: int) -> None:
        self.targets = torch.arange(count) % 3

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.targets[index] + 0.5 * torch.randn(8), int(self.targets[index])


def lazy() -> tuple[Noisy, Noisy]:
    """Return a training and a test set."""
    return Noisy(60), Noisy(30)


def private(client: int) -> tuple[Any, Any]:
    """Return a client's own samples."""
    draw = np.random.default_rng(client)
    labels = draw.integers(3, size=20)
    return draw.normal(size=(20, 8)) + labels[:, None], labels


def private_lazy(client: int) -> Noisy:
    """Return a client's own samples, which are read when they are needed."""
    return Noisy(15 + client)


def normalized(feature_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a network with batch norm and dropout."""
    layers = [nn.Linear(prod(feature_shape), 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, classes)]
    return nn.Sequential(nn.Flatten(), *layers)


def adapted(feature_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a network whose first layer is frozen."""
    first = nn.Linear(prod(feature_shape), 6).requires_grad_(False)
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(6, classes))


def drawn(seed: int) -> dict[str, Any]:
    """Return a configuration for one process; not every one is valid."""
    draw = random.Random(seed)
    one, chance = draw.choice, lambda share: draw.random() < share
    clients = draw.randint(4, 12)
    byzantine = draw.randint(0, (clients - 1) // 3)
    tree: dict[str, Any] = {
        "name": "drawn",
        "seed": draw.randint(0, 9),
        "rounds": draw.randint(6, 14),
        "clients": {"count": clients, "byzantine": byzantine},
        "aggregation": {
            "rule": one(RULES),
            "pre": one([[], ["nnm"], ["arc"], [{"name": "bucketing", "size": 2}]]),
            "allow_breakdown": True,
        },
        "attack": one(ATTACKS) if byzantine else "none",
        "dtype": one(["float32", "float64"]),
        "evaluate": {"every": draw.randint(1, 5)},
        "checkpoint": {"every": one([2, 3]), "keep": 20},
        "on_divergence": "continue",
        "device": "cpu",
    }
    tree["data"], tree["model"] = _problem(draw)
    tree["method"] = _method(draw, clients)
    compression = (
        {"name": "rand_k", "ratio": 0.3, "support": "shared"}
        if tree["method"]["name"] == "rosdhb"
        else one(COMPRESSIONS)
    )
    if compression:
        tree["compression"] = compression
    if chance(0.2):
        tree["clients"]["availability"] = {"name": "bernoulli", "q": 0.7}
    if chance(0.2):
        tree["evaluate"]["samples"] = 10
    if chance(0.2):
        tree["metrics"] = {"diagnostics": True}
    if chance(0.2):
        tree["stop"] = {"metric": one(["loss", "grad_norm"]), "patience": 2}
    if chance(0.1):
        tree |= {"precision": "bf16", "dtype": "float32"}
    return tree


def _problem(draw: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    data: dict[str, Any] = draw.choice(
        [
            {"name": "digits", "split": draw.choice(SPLITS)},
            {"name": "synthetic", "samples": 200, "features": 7, "split": draw.choice(SPLITS)},
            {"name": "breast_cancer", "split": draw.choice(SPLITS)},
            {"name": "diabetes", "split": "iid"},
            {"name": "text", "window": 8, "max_bytes": 3000, "split": "iid"},
            {"name": f"{OWN}:lazy", "split": draw.choice(SPLITS), "workers": draw.choice([0, 1])},
            {"name": f"{OWN}:private", **PRIVATE},
            {"name": f"{OWN}:private_lazy", **PRIVATE},
        ]
    )
    if data["name"] == "text":
        return data, {"name": "transformer", "width": 8, "layers": 1, "heads": 2}
    if data["name"] == "diabetes":
        return data, draw.choice([{"name": "linear"}, {"name": "mlp", "hidden": [5]}])
    models: list[dict[str, Any]] = [
        {"name": "logistic_regression", "l2": draw.choice([0.0, 0.01])},
        {"name": "mlp", "hidden": [5]},
        {"name": f"{OWN}:normalized", "buffers": draw.choice(["local", "frozen"])},
        {"name": f"{OWN}:adapted"},
    ]
    return data, draw.choice(models)


def _method(draw: random.Random, clients: int) -> dict[str, Any]:
    one = draw.choice
    name = one(METHODS)
    method: dict[str, Any] = {"name": name, "step_size": one(STEP_SIZES)}
    if name not in OF_ALL:
        method["cohort"] = draw.randint(2, clients)
    if name != "byz_ef21":
        method["batch_size"] = draw.randint(2, 6)
    if "marina" in name:
        method |= {"p": one([0.1, 0.5]), **one([{}, {"full_batch": 5}])}
    if name.startswith("byz_vr_marina_pp"):
        method["clip"] = one([0.5, 1.0, "none"])
    if name in OF_ESTIMATES:
        method["clip"] = one([1.0, "none"])
        if draw.random() < 0.3:
            method["server_optimizer"] = {"name": one(["sgd", "nesterov", "adam", "normalized"])}
    if name == "local_steps":
        inner = {"name": one(["sgd", "momentum", "adamw"]), "step_size": 0.01}
        method |= {"steps": draw.randint(1, 3), "inner": inner, "remember_inner": one([True, False])}
    if name == "byz_clip21":
        method |= {"tau": 0.2, "sigma": one([0, 0.01]), "beta2": one([1.0, 0.1])}
    if draw.random() < 0.2:
        method["weight_decay"] = 0.01
    if draw.random() < 0.15:
        method["batches"] = "shared"
    return method
