"""Rounds per second of a small model in one process, compared to the same run in real processes and to ByzFL's simulator.

usage: python -m tests.benchmarks.simulators --data a9a.gz [--rounds N] [--runs N]     (needs: pip install byzfl --no-deps)

Logistic regression on a9a, 20 clients of which 5 are Byzantine and flip signs, 4 sampled a round with batches of 32, coordinate-wise
median after bucketing. In a round of byzdist each sampled client computes two gradients, and now and then all of them a full one; in a
round of ByzFL's FedAvg each sampled honest client computes one. All take turns; ByzFL's line is the better of one and two threads.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from byzdist.problem.data import Dataset, load
from tests.benchmarks.aggregation import import_byzfl
from tests.benchmarks.measure import ROOT

CONFIG = ROOT / "configs/paper/fig1_clip_1.yaml"
CLIENTS, BYZANTINE, COHORT, BATCH, STEP = 20, 5, 4, 32, 0.1


def rounds_per_second(transport: str, data: Path, rounds: int) -> float:
    """Return byzdist's rounds per second, after round 0 and without evaluations."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"data.path={data}", f"rounds={rounds}", "attack=bit_flip", f"evaluate.every={rounds}"]
        words += [f"transport.name={transport}", *([] if transport == "local" else ["--workers", "4"])]
        command = [sys.executable, "-m", "byzdist", "run", str(CONFIG), *words, "--out", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        lines = [json.loads(line)["seconds"] for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    return 1 / statistics.fmean(line["total"] - line.get("evaluate", 0.0) for line in lines[1:])


class Logistic(nn.Module):
    """The model that ByzFL trains."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(123, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of features [b, 123]."""
        logits: torch.Tensor = self.linear(features).squeeze(1)
        return logits


def byzfl(data: Path, rounds: int) -> None:
    """Run ByzFL's FedAvg with one local step, and print its rounds per second."""
    import_byzfl()
    from byzfl import fed_framework
    from byzfl.fed_framework import models

    models.Logistic = Logistic
    dataset = load({"name": "libsvm", "path": str(data), "features": 123, "normalize": True}, dtype="float32")
    assert isinstance(dataset, Dataset)
    samples = TensorDataset(
        torch.from_numpy(dataset.features), torch.from_numpy(np.asarray(dataset.labels, np.float32))
    )
    honest, order = CLIENTS - BYZANTINE, np.random.default_rng(0).permutation(len(samples))
    common = {
        "model_name": "Logistic",
        "device": "cpu",
        "optimizer_name": "SGD",
        "learning_rate": STEP,
        "weight_decay": 0.0,
        "milestones": [],
        "learning_rate_decay": 1.0,
    }
    of_client = {"loss_name": "BCEWithLogitsLoss", "LabelFlipping": False, "nb_labels": 2, "momentum": 0.0}
    clients = [
        fed_framework.Client(
            common
            | of_client
            | {
                "training_dataloader": DataLoader(Subset(samples, part.tolist()), batch_size=BATCH, shuffle=True),
                "store_per_client_metrics": False,
            }
        )
        for part in np.array_split(order, honest)
    ]
    server = fed_framework.Server(
        common
        | {
            "test_loader": DataLoader(samples, batch_size=1024),
            "aggregator_info": {"name": "Median", "parameters": {}},
            "pre_agg_list": [{"name": "Bucketing", "parameters": {"s": 2}}],
        }
    )
    attacker = fed_framework.ByzantineClient({"name": "SignFlipping", "f": BYZANTINE, "parameters": {}})
    draws = np.random.default_rng(1)
    started = time.perf_counter()
    for _ in range(rounds):
        model = server.get_dict_parameters()
        chosen = draws.choice(CLIENTS, COHORT, replace=False)
        good = [clients[i] for i in chosen if i < honest] or [clients[0]]  # because its attacks need an honest vector
        for client in good:
            client.set_model_state(model)  # only to the sampled clients; ByzFL's own loop sends it to all
            client.compute_model_update(1)
        weights = [client.get_flat_parameters() for client in good]
        attacker.f = COHORT - len(good)
        server.update_model_with_weights(weights + attacker.apply_attack(weights))
    print(rounds / (time.perf_counter() - started))


def byzfl_rounds_per_second(data: Path, rounds: int, threads: int) -> float:
    """Return ByzFL's rounds per second, measured in a separate process."""
    program = f"import torch; torch.set_num_threads({threads}); from tests.benchmarks.simulators import *; "
    program += f"byzfl(Path({str(data)!r}), {rounds})"
    found = subprocess.run([sys.executable, "-c", program], check=True, text=True, stdout=subprocess.PIPE, cwd=ROOT)
    return float(found.stdout.split()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    data, rounds = arguments.data.resolve(), arguments.rounds
    found: dict[str, list[float]] = {"local": [], "star": [], "collective": [], "ByzFL": []}
    for _ in range(arguments.runs):
        for transport in ("local", "star", "collective"):
            found[transport].append(rounds_per_second(transport, data, rounds))
        found["ByzFL"].append(max(byzfl_rounds_per_second(data, rounds, threads) for threads in (1, 2)))
    print(
        f"rounds a second, median of {arguments.runs} runs of {rounds} rounds in turn; ratios to ByzFL, median of the pairs"
    )
    for name, speeds in found.items():
        ratio = statistics.median(a / b for a, b in zip(speeds, found["ByzFL"], strict=True))
        print(f"{name:12} {statistics.median(speeds):7.0f}  {ratio:5.2f}", flush=True)


if __name__ == "__main__":
    main()
