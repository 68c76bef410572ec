"""The cost of lazy reading: the share of a round spent waiting for batches, without and with reading ahead, and the same on arrays.

usage: python -m tests.benchmarks.reading [--rounds N]

The shipped cnn on images of 28 x 28, batches of 32, 20 clients of which 4 are asked, in one process (transport local). Each image
is turned from bytes into numbers, shifted by up to two pixels and, every second time, mirrored; from a slow disk the first image of
a batch comes after 5 ms. ``data.workers`` is the number of processes that read ahead. Only sampled rounds are measured.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from byzdist.problem.data import DATASETS, Lazy
from byzdist.problem.data.ahead import ReadAhead
from byzdist.problem.data.reader import Reader
from tests.support.inprocess import train
from tests.support.standins import registered

SAMPLES, WARM, DELAY = 2000, 5, 5e-3
CONFIG: dict[str, Any] = {
    "name": "reading",
    "clients": {"count": 20, "byzantine": 4},
    "model": "cnn",
    "method": {
        "name": "byz_vr_marina_pp",
        "step_size": 0.01,
        "p": 1e-6,
        "full_batch": 32,
        "batch_size": 32,
        "cohort": 4,
    },
    "aggregation": {"rule": "coordinate_median"},
    "evaluate": {"every": 10**6},
    "transport": "local",
}


class Images(Dataset[tuple[Tensor, int]]):
    """Random images that are augmented when they are read."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.images = torch.from_numpy(generator.integers(256, size=(SAMPLES, 28, 28), dtype=np.uint8))
        self.targets = (np.arange(SAMPLES) % 10).tolist()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = F.pad(self.images[index].float().div_(255), (2, 2, 2, 2))
        down, right, mirrored = torch.randint(5, (3,)).tolist()
        image = image[down : down + 28, right : right + 28]
        return image.flip(1) if mirrored % 2 else image, self.targets[index]


def slow() -> Lazy:
    """Return the same images, from a slow disk."""

    def collate(samples: list[Any]) -> Any:
        time.sleep(DELAY)
        return default_collate(samples)

    return Lazy(Images(), collate=collate)


def arrays() -> tuple[Any, Any]:
    """Return the same images as arrays, which cannot be augmented."""
    images = Images()
    return images.images.float().div_(255), images.targets


def measure(data: Callable[[], Any], rounds: int, workers: int) -> tuple[float, float]:
    """Return the median seconds of a round, and the seconds of it spent waiting for batches."""
    spent, notes = 0.0, list[float]()
    owner, method = (ReadAhead, "_take") if workers else (Reader, "read")
    wait = getattr(owner, method)

    def timed(*arguments: Any) -> Any:
        nonlocal spent
        start = time.perf_counter()
        batch = wait(*arguments)
        spent += time.perf_counter() - start
        return batch

    name = f"benchmark_{data.__name__.lower()}"  # a separate name, because the cache keeps arrays by name
    with (
        registered(DATASETS, **{name: data}),
        tempfile.TemporaryDirectory() as folder,
        patch.object(owner, method, timed),
    ):
        tree = {**CONFIG, "data": {"name": name, "workers": workers}, "rounds": rounds + WARM}
        trained = train(tree, Path(folder), 1, lambda server, round_: notes.append(spent))
    assert all(line["kind"] == "sampled" for line in trained.metrics[WARM:])
    total = statistics.median(line["seconds"]["total"] for line in trained.metrics[WARM:-1])
    waits = [after - before for before, after in zip(notes[WARM - 1 :], notes[WARM:-1], strict=False)]
    return total, statistics.median(waits)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for name, data, most in (("arrays", arrays, 0), ("augmenting Dataset", Images, 2), ("from a slow disk", slow, 2)):
        in_place = 0.0
        for workers in range(most + 1):
            total, wait = measure(data, rounds, workers)
            in_place = in_place or wait
            hidden = f", {1 - wait / in_place:.0%} of the reading hidden" if workers else ""
            print(
                f"{name:>18}, data.workers {workers}: {1e3 * total:.2f} ms a round, {1e3 * wait:.2f} ms of it waiting for batches, "
                f"{wait / total:.1%}{hidden}"
            )


if __name__ == "__main__":
    main()
