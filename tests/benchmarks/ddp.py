"""The cost of the robust DDP hook, compared to a hook that gathers the same bytes and averages them.

    torchrun --nproc-per-node 4 tests/benchmarks/ddp.py [--rule coordinate_median] [--width 1024] [--steps 30]

The models are trained in turn, step by step, in the same processes. It prints the median ratio of their step times (forward,
backward and communication; no optimizer), also for plain DDP's all-reduce, which sends fewer bytes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import byzdist


def gathering():
    """Return the hook to compare with: it gathers each bucket as the robust hook does, and averages it."""
    gathered: dict[int, Tensor] = {}

    def hook(group, bucket):
        mine, ranks = bucket.buffer(), dist.get_world_size(group)
        known = gathered.get(bucket.index())
        if known is None or known.shape != (ranks, len(mine)):
            known = gathered[bucket.index()] = torch.empty(ranks, len(mine), dtype=mine.dtype)
        work = dist.all_gather_single(known.view(-1), mine, group=group, async_op=True)
        return work.get_future().then(lambda _: torch.mean(known, 0, out=mine))

    return hook


def network(width: int) -> nn.Module:
    layers = [layer for _ in range(6) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rule", nargs="+", default=["coordinate_median", "trimmed_mean", "meamed", "geometric_median"]
    )
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    features = torch.randn(arguments.batch, arguments.width)
    hooks: dict[str, Callable[..., Any] | None] = {"all-reduce": None, "gather": gathering()}
    hooks |= {rule: byzdist.ddp.robust_hook(rule, f=(ranks - 1) // 2) for rule in arguments.rule}
    models = {}
    for name, hook in hooks.items():
        torch.manual_seed(0)
        models[name] = DistributedDataParallel(network(arguments.width))
        if hook is not None:
            models[name].register_comm_hook(None, hook)

    def step(name: str) -> float:
        dist.barrier()
        start = time.perf_counter()
        models[name].zero_grad()
        models[name](features).square().mean().backward()
        return time.perf_counter() - start

    times: dict[str, list[float]] = {name: [] for name in hooks}
    for number in range(arguments.steps + 5):  # the first five make buffers and compile loops
        for name in hooks:
            seconds = step(name)
            if number >= 5:
                times[name].append(seconds)
    if rank == 0:
        size = sum(parameter.numel() for parameter in network(arguments.width).parameters())
        print(f"{ranks} ranks, {size / 1e6:.1f} million parameters, batches of {arguments.batch}, one thread each")
        print("hook                 ms (median)   over gathering and averaging")
        for name, own in times.items():
            ratio = statistics.median(a / b for a, b in zip(own, times["gather"], strict=True))
            print(f"{name:20s} {1e3 * statistics.median(own):11.1f} {ratio:10.2f}")
    dist.barrier()
    time.sleep(1)  # so that gloo's threads release their tensors before the interpreter ends
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
