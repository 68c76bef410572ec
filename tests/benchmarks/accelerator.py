"""A GPU, or another accelerator, beside the CPU: rounds, the aggregation engine, and a language model beside a plain loop.

usage: python -m tests.benchmarks.accelerator rounds|engine|language [--device cuda] [--small]

* rounds: a convolutional network on images of MNIST's shape and ResNet-18 on those of CIFAR-10, random ones, on the star: a server
  and four workers that share the accelerator, then the same on the CPU. Printed are a round's median time, the shares of it that pass
  until all requests are sent, until all replies are there, and in aggregation; and the gradients' time, measured alone in one process.
* engine: rules for n = 20 vectors beside a sum over the same matrix, which reads it once: its time over the rule's is the share of
  the memory's bandwidth that the rule would reach if it read each vector once. Results are compared with the CPU's where d <= 1e7.
* language: a transformer of 100 million parameters in bf16 under local steps, in one process, beside a plain loop of the same model,
  optimizer and batches: tokens a second, and the peak of the accelerator's memory.

Without ``--device`` it is the accelerator that torch sees, else the CPU. ``--small`` shrinks all sizes, to try the script itself.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import byzdist
from byzdist.aggregation import Aggregator
from byzdist.config.reading import parse
from byzdist.host.accelerators import use
from byzdist.problem.data import Dataset, RawData
from byzdist.registry import Named
from byzdist.rounds import Round
from byzdist.runtime.experiment import Experiment, prepare
from tests.benchmarks.measure import run

WORKERS, COHORT, STEPS = 4, 4, 16
RULES: list[tuple[Named, list[Named]]] = [
    ("coordinate_median", []),
    ("trimmed_mean", []),
    ("krum", []),
    ("geometric_median", []),
    ("trimmed_mean", ["nnm"]),
]


def images(*, depth: int, side: int) -> RawData:
    """Return 2,000 random images of ten classes."""
    draw = np.random.default_rng(0)
    return RawData(draw.random((2000, depth, side, side), dtype=np.float32), draw.integers(10, size=2000), None, None)


def vision(model: str, device: str, batch: int) -> dict[str, Any]:
    """Return the configuration of a model on images."""
    shape = {"depth": 1, "side": 28} if model == "cnn" else {"depth": 3, "side": 32}
    return {
        "name": model,
        "clients": {"count": 20, "byzantine": 5},
        "data": {"name": f"{__name__ if __name__ != '__main__' else 'tests.benchmarks.accelerator'}:images", **shape},
        "model": {"name": model},
        "method": {"name": "momentum_sgd", "step_size": 0.01, "batch_size": batch, "cohort": COHORT, "clip": 100.0},
        "aggregation": {"rule": "geometric_median", "pre": ["nnm"]},
        "attack": {"name": "bit_flip"},
        "transport": {"name": "star", "deadline": 300, "join_timeout": 600},
        "checkpoint": {"minutes": "none"},
        "device": device,
    }


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def timed(call: Callable[[], object], device: torch.device, repeat: int = 7) -> float:
    """Return the median of a call's seconds on a device, after one call that does not count."""
    taken = []
    for _ in range(1 + repeat):
        wait_for(device)
        start = time.perf_counter()
        call()
        wait_for(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def gradient_seconds(experiment: Experiment, batch: int) -> float:
    """Return the seconds of one client's mini-batch gradient, alone on its device."""
    oracle = experiment.oracle
    x = oracle.initial().to(experiment.device)
    out, chosen = torch.empty_like(x), np.arange(batch)
    return timed(lambda: oracle.gradient(x, 0, chosen, out, Round(1, 0)), experiment.device)


def rounds(device: torch.device, small: bool) -> None:
    """Print a table of both models on the device and on the CPU."""
    print("model     device   parameters  round ms  requests  replies  aggregation  one gradient ms")
    for model in ("cnn", "resnet18"):
        for place in dict.fromkeys((str(device), "cpu")):
            config, count = vision(model, place, 2 if small else 32), 3 if small else 100 if model == "cnn" else 30
            with tempfile.TemporaryDirectory() as folder:
                measured = run(config, Path(folder, "run"), WORKERS, count)
            experiment = prepare(parse({**config, "rounds": count}), torch.device(place))
            parts = measured.means
            shares = (f"{parts[name] / parts['total']:9.2f}" for name in ("request", "wait", "aggregate"))
            print(
                f"{model:9s} {place:8s} {experiment.oracle.dimension:10d} {1e3 * measured.seconds:9.1f} {'  '.join(shares)}"
                f" {1e3 * gradient_seconds(experiment, 2 if small else 32):16.2f}",
                flush=True,
            )


def engine(device: torch.device, small: bool) -> None:
    """Print each rule's share of the bandwidth, and how far its result is from the CPU's, relative to the largest value."""
    print("d         rule                      ms      share  compiled ms  share   from the CPU's")
    for d in (10**5, 10**6) if small else (10**7, 10**8):
        torch.manual_seed(0)
        V = torch.randn(20, d, device=device)
        out, reads = torch.empty(d, device=device), timed(lambda: V.sum(), device)  # noqa: B023
        for rule, pre in RULES:
            row = f"{d:<9d} {'+'.join(map(str, [*pre, rule])):22s}"
            for compiled in (False, True):
                aggregator = Aggregator(rule, pre, compile=compiled)
                spent = timed(lambda: aggregator(V, f=4, out=out), device)  # noqa: B023
                row += f" {1e3 * spent:9.2f} {reads / spent:9.2f}"
            if d <= 10**7:
                here = Aggregator(rule, pre)(V.cpu(), f=4).vector
                row += f" {float((out.cpu() - here).abs().max() / here.abs().max()):14.1e}"
            print(row, flush=True)


def plain_loop(experiment: Experiment, batch: int, steps: int) -> float:
    """Return the tokens a second of an ordinary training loop."""
    loss, device = experiment.oracle.loss, experiment.device
    model = loss.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    (inputs, targets), draw = _tokens(experiment), np.random.default_rng(0)

    def step() -> None:
        chosen = torch.from_numpy(draw.choice(len(inputs), batch, replace=False)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(inputs[chosen])
            found = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[chosen].flatten())
        found.backward()
        optimizer.step()
        optimizer.zero_grad()

    return steps * batch * inputs.shape[1] / timed(lambda: [step() for _ in range(steps)], device, repeat=3)


def _tokens(experiment: Experiment) -> tuple[Tensor, Tensor]:
    dataset, device = experiment.dataset, experiment.device
    assert isinstance(dataset, Dataset)
    return torch.as_tensor(dataset.features).long().to(device), torch.as_tensor(dataset.labels).long().to(device)


def language(device: torch.device, small: bool) -> None:
    """Print tokens a second of byzdist and of the plain loop, in turn, and the memory that each needs at its peak."""
    width, layers, batch, window = (32, 1, 2, 32) if small else (896, 12, 16, 512)
    config = {
        "clients": {"count": 4},
        "data": {"name": "text", "window": window, "split": "iid"},
        "model": {"name": "transformer", "width": width, "layers": layers, "heads": 2 if small else 14},
        "method": {
            "name": "local_steps",
            "steps": STEPS,
            "inner": {"name": "adamw", "step_size": 1e-4},
            "step_size": 0.7,
            "batch_size": batch,
            "cohort": COHORT,
            "clip": "none",
        },
        "aggregation": {"rule": "trimmed_mean", "declared_byzantine": 1},
        "rounds": 4,
        "evaluate": {"every": 10**6},
        "precision": "bf16",
        "device": str(device),
        "transport": "local",
    }
    rates: dict[str, list[float]] = {"byzdist": [], "plain loop": []}
    peaks = dict.fromkeys(rates, 0)
    for _ in range(3):
        for name, found in rates.items():
            if device.type != "cpu":
                torch.accelerator.empty_cache()
                torch.accelerator.reset_peak_memory_stats()
            if name == "byzdist":
                with tempfile.TemporaryDirectory() as folder:
                    trained = byzdist.train(out=Path(folder, "run"), workers=0, progress=False, **config)
                    spent = trained.metrics["seconds.total"][2:]
                found.append(COHORT * STEPS * batch * window / statistics.median(spent))
            else:
                experiment = prepare(parse({"name": "plain", **config}), device)
                found.append(plain_loop(experiment, batch, STEPS))
            if device.type != "cpu":
                peaks[name] = max(peaks[name], torch.accelerator.max_memory_allocated())
    print(f"{experiment.oracle.dimension} parameters, batches of {batch} x {window} tokens, bf16, {device}")
    for name, found in rates.items():
        print(f"{name:10s} {statistics.median(found):12.0f} tokens a second, peak {peaks[name] / 2**30:6.2f} GiB")
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    print(f"byzdist over the plain loop: {statistics.median(ratios):.2f}")


def main() -> None:
    """Run a part."""
    parts = {part.__name__: part for part in (rounds, engine, language)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--device", type=torch.device, help="such as cuda:0")
    parser.add_argument("--small", action="store_true", help="shrink all sizes")
    arguments = parser.parse_args()
    device = arguments.device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    device = torch.device(device.type, device.index or 0) if device.type != "cpu" else device
    use(device)
    torch.set_num_threads(1)  # as each of a run's processes
    module = torch.get_device_module(device)
    if hasattr(module, "get_device_name"):
        print(module.get_device_name(device))
    parts[arguments.part](device, arguments.small)


if __name__ == "__main__":
    main()
