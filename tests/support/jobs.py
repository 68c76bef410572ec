"""Jobs of other kinds than classifying arrays, each with a Byzantine minority, and the same jobs without any."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from byzdist.config.reading import parse
from byzdist.problem import models
from byzdist.problem.models.transformer import Transformer
from byzdist.problem.task import Task
from byzdist.problem.tasks import TASKS
from byzdist.randomness import stream
from tests.support.problem import load_arrays

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
ROBUST = {"rule": "trimmed_mean", "pre": ["nnm"]}
MOMENTUM = {"name": "momentum_sgd", "momentum": 0.9, "cohort": 8, "full_cohort": 8, "clip": 10.0}
COMMON: dict[str, Any] = {
    "seed": 3,
    "clients": {"count": 8, "byzantine": 2},
    "aggregation": ROBUST,
    "attack": {"name": "bit_flip"},
    "dtype": "float64",
    "device": "cpu",
    "checkpoint": {"every": 5, "minutes": "none"},
}


class Head(nn.Module):
    """A frozen random map of the features, dropout, and a head, which alone is trained."""

    def __init__(self, feature_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(feature_shape[0], 40).requires_grad_(False)
        self.dropout, self.head = nn.Dropout(0.1), nn.Linear(40, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.head(self.dropout(torch.tanh(self.body(features))))
        return logits


class Adapted(nn.Module):
    """A frozen linear layer and a trained product of two thin matrices beside it (LoRA, Hu et al. 2022)."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what both give together."""
        out: torch.Tensor = self.layer(x) + x @ self.down.T @ self.up.T
        return out


def adapted(feature_shape: tuple[int, ...], classes: int, *, adapters: bool = True) -> nn.Module:
    """Return a transformer of more than 10 million parameters; with adapters, those alone are trained."""
    model = Transformer(feature_shape, classes, width=384, layers=6, heads=6)
    if adapters:
        model.requires_grad_(False)
        for block in cast(Any, model.blocks):
            block.queries_keys_values = Adapted(block.queries_keys_values, rank=12)
    return model


def text(folder: Path) -> Path:
    """Write words in an order in which each is mostly followed by the next."""
    generator, word, said = stream(0, "words"), 0, []
    for _ in range(900):
        said.append(WORDS[word])
        word = (word + 1) % len(WORDS) if generator.random() < 0.9 else int(generator.integers(len(WORDS)))
    path = folder / "words.txt"
    path.write_text(" ".join(said))
    return path


def regression(folder: Path) -> dict[str, Any]:
    """Return a regression: how diabetes will progress."""
    method = {"name": "byz_vr_marina_pp", "step_size": 0.05, "p": 0.2, "batch_size": 32, "cohort": 4, "clip": 1.0}
    return {
        **COMMON,
        "name": "regression",
        "rounds": 1200,
        "data": "diabetes",
        "model": {"name": "linear", "l2": 0.001},
        "method": method,
        "evaluate": {"every": 100},
    }


def language_model(folder: Path) -> dict[str, Any]:
    """Return a small language model on words of a file."""
    return {
        **COMMON,
        "name": "language",
        "rounds": 120,
        "data": {"name": "text", "path": str(text(folder)), "window": 16, "split": "iid"},
        "model": {"name": "transformer", "width": 16, "layers": 1, "heads": 2},
        "method": {**MOMENTUM, "step_size": 1.0, "batch_size": 24},
        "evaluate": {"every": 30},
    }


def frozen_with_dropout(folder: Path) -> dict[str, Any]:
    """Return a classifier of digits whose module has dropout and frozen parts."""
    return {
        **COMMON,
        "name": "frozen",
        "rounds": 250,
        "data": {"name": "digits", "split": "iid"},
        "model": "tests.support.jobs:Head",
        "method": {**MOMENTUM, "step_size": 1.0, "batch_size": 160},
        "evaluate": {"every": 50},
    }


JOBS = {"regression": regression, "language model": language_model, "frozen, dropout": frozen_with_dropout}


def alone(tree: dict[str, Any], cache: Path) -> float:
    """Return the final loss of a job without attackers and without distribution: torch's own optimizer on all samples at once."""
    config = parse(tree)
    assert config.task is not None
    task = TASKS.build(config.task, key="task")
    found = load_arrays(config.data.without("split"), cache, dtype=config.dtype, task=task)
    tokens = task.inputs == "tokens"
    torch.set_num_threads(1)
    model = models.build(config.model, found.feature_shape, found.classes, config.seed, tokens=tokens).double()
    batch = (torch.from_numpy(np.array(found.features)), torch.from_numpy(np.array(found.labels)))
    step, momentum = config.method.parameters["step_size"], config.method.parameters.get("momentum", 0.0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    l2 = config.model.parameters.get("l2", 0.0)
    optimizer = torch.optim.SGD(trained, step, momentum, dampening=momentum)
    for _ in range(config.rounds):
        optimizer.zero_grad()
        _loss(task, model, batch, l2).backward()
        optimizer.step()
    with torch.no_grad():
        return float(_loss(task, model.eval(), batch, l2))


def _loss(task: Task, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], l2: float) -> torch.Tensor:
    found = task.loss(model, batch)
    mean = found[0] / found[1] if isinstance(found, tuple) else found
    square: Any = sum(parameter.square().sum() for parameter in model.parameters() if parameter.requires_grad)
    return mean + l2 * square
