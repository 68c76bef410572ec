"""What a sweep costs beside its training, and a study of 36 runs beside ByzFL's own sweep of it.

usage: python -m tests.benchmarks.sweep --data a9a.gz [--runs N]     (needs: pip install byzfl --no-deps)

1. Twenty runs of a9a with 1,500 rounds, one at a time: the command's wall time over the sum of the runs' own seconds (summary.json).
2. Three rules, four attacks, three seeds, 100 rounds: scikit-learn's digits, softmax regression, 20 clients of which 5 are Byzantine,
   all of which send a gradient of 32 samples each round; two processes. Both commands are timed from outside, with their imports, in
   turn. ByzFL's runner, byzfl.benchmark.run_benchmark, takes its data from torchvision alone; here is its loop (DSGD of
   byzfl/benchmark/train.py) with its own clients, server, aggregators and attacks, mapped over its own Pool of two processes.
   Both evaluate every 20 rounds, ByzFL the accuracy, byzdist also loss and gradient. Each ByzFL process has one thread, which is faster
   there than two.
"""

import argparse
import csv
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from tests.benchmarks.aggregation import import_byzfl
from tests.benchmarks.measure import ROOT

CLIENTS, BYZANTINE, BATCH, STEP, ROUNDS, EVERY = 20, 5, 32, 0.1, 100, 20
STUDY = {
    "base": {
        "name": "study",
        "rounds": ROUNDS,
        "clients": {"count": CLIENTS, "byzantine": BYZANTINE},
        "data": {"name": "digits", "split": "iid"},
        "model": "logistic_regression",
        "method": {"name": "sgd", "step_size": STEP, "batch_size": BATCH, "cohort": CLIENTS, "clip": "none"},
        "aggregation": {"rule": "krum"},
        "transport": "local",
        "evaluate": {"every": EVERY},
    },
    "grid": {
        "aggregation.rule": ["coordinate_median", "krum", "geometric_median"],
        "attack": ["bit_flip", "ipm", "alie", "mimic"],
        "seed": "0..2",
    },
}
RULES = {"Median": {}, "Krum": {"f": BYZANTINE}, "GeometricMedian": {}}
ATTACKS = {"SignFlipping": {}, "InnerProductManipulation": {"tau": 2.0}, "ALittleIsEnough": {"tau": 1.5}, "Mimic": {}}


def command(*words: object) -> float:
    """Run `byzdist` with these words; return its wall time."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "byzdist", *map(str, words)], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - started


def overhead(data: Path) -> float:
    """Return the wall time of 20 runs one at a time, in their own seconds."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"data.path={data}", "seed=0..19", "rounds=1500", "transport=local", "--jobs", "1"]
        wall = command("sweep", ROOT / "configs/paper/fig1_clip_1.yaml", *words, "--out", f"{folder}/sweep")
        with open(f"{folder}/sweep/runs.csv") as index:
            trained = sum(float(row["seconds"]) for row in csv.DictReader(index))
    print(f"20 runs of a9a: {wall:.1f} s, of which they trained {trained:.1f} s: {wall / trained:.3f}", flush=True)
    return wall / trained


def byzdist_study() -> float:
    """Return the study's wall time with byzdist."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "study.yaml")
        path.write_text(yaml.safe_dump(STUDY))
        return command("sweep", path, "--jobs", "2", "--out", f"{folder}/study")


def byzfl_study() -> float:
    """Return the study's wall time with ByzFL's classes."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "from tests.benchmarks.sweep import byzfl; byzfl()"], check=True, cwd=ROOT)
    return time.perf_counter() - started


class Softmax(nn.Module):
    """The model that ByzFL trains."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of features [b, 64]."""
        logits: torch.Tensor = self.linear(features)
        return logits


def byzfl() -> None:
    """Train the 36 runs with ByzFL's classes, in its Pool of two processes."""
    import_byzfl()
    with tempfile.TemporaryDirectory() as folder, Pool(2) as pool:  # as in byzfl.benchmark.run_benchmark
        pool.map(_train, [(*point, folder) for point in itertools.product(RULES, ATTACKS, range(3))])
        assert len(list(Path(folder).iterdir())) == 36


def _train(point: tuple[str, str, int, str]) -> None:
    """Do what start_training of byzfl/benchmark/train.py does, without torchvision."""
    rule, attack, seed, folder = point
    torch.set_num_threads(1)
    from byzfl import fed_framework
    from byzfl.fed_framework import models
    from byzfl.utils.misc import set_random_seed
    from sklearn.datasets import load_digits

    models.Softmax = Softmax
    set_random_seed(seed)
    features, labels = load_digits(return_X_y=True)
    samples = TensorDataset(torch.tensor(features / 16, dtype=torch.float32), torch.tensor(labels))
    honest = CLIENTS - BYZANTINE
    parts = np.array_split(np.random.default_rng(seed).permutation(len(samples)), honest)
    common = {
        "model_name": "Softmax",
        "device": "cpu",
        "optimizer_name": "SGD",
        "learning_rate": STEP,
        "weight_decay": 0.0,
        "milestones": [],
        "learning_rate_decay": 1.0,
    }
    of_client = {"loss_name": "CrossEntropyLoss", "LabelFlipping": False, "nb_labels": 10, "momentum": 0.0}
    clients = [
        fed_framework.Client(
            common
            | of_client
            | {
                "training_dataloader": DataLoader(Subset(samples, part.tolist()), batch_size=BATCH, shuffle=True),
                "store_per_client_metrics": False,
            }
        )
        for part in parts
    ]
    aggregator = {"name": rule, "parameters": RULES[rule]}
    server = fed_framework.Server(
        common
        | {
            "test_loader": DataLoader(samples, batch_size=128),
            "aggregator_info": aggregator,
            "pre_agg_list": [],
        }
    )
    attacker = fed_framework.ByzantineClient({"name": attack, "f": BYZANTINE, "parameters": dict(ATTACKS[attack])})
    found: list[float] = []
    losses = np.zeros(ROUNDS)
    for client in clients:
        client.set_model_state(server.get_dict_parameters())
    for step in range(ROUNDS):
        if step % EVERY == 0:
            found.append(server.compute_test_accuracy())
        losses[step] = np.mean([client.compute_gradients() for client in clients])
        good = [client.get_flat_gradients_with_momentum() for client in clients]
        server.update_model_with_gradients(good + attacker.apply_attack(good))
        model = server.get_dict_parameters()
        for client in clients:
            client.set_model_state(model)
    found.append(server.compute_test_accuracy())
    Path(folder, f"{rule}-{attack}-{seed}.json").write_text(json.dumps([found, losses.tolist()]))


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    ratio = statistics.median(overhead(arguments.data.resolve()) for _ in range(arguments.runs))
    print(f"median of {arguments.runs}: {ratio:.3f} (at most 1.2 is wanted)")
    pairs = [(byzdist_study(), byzfl_study()) for _ in range(arguments.runs)]
    for ours, theirs in pairs:
        print(
            f"36 runs with two processes: byzdist {ours:.1f} s, ByzFL {theirs:.1f} s: {theirs / ours:.2f} times as fast"
        )
    print(f"median of {arguments.runs}: {statistics.median(theirs / ours for ours, theirs in pairs):.2f}")


if __name__ == "__main__":
    main()
