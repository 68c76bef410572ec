"""One rank of the tests of the DDP hook: `python -m tests.support.ddp_ranks STORE RANK RANKS OUT` writes the result of each case."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import byzdist
from byzdist.aggregation import Aggregator
from byzdist.errors import ConfigError

HOSTILE = 3


def net(width: int = 40) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))


def batch(rank: int, step: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(10 * step + rank)).to(dtype)


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.detach().clone() for parameter in model.parameters()]


def loss_of(model: nn.Module, rank: int, step: int, bad: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
    loss = model(batch(rank, step, dtype)).square().mean()
    return bad(loss) if rank == HOSTILE else loss


def steps(
    rank: int,
    bad: Callable[[Tensor], Tensor] = lambda loss: loss * -10,
    dtype: torch.dtype = torch.float32,
    rule: Any = "coordinate_median",
    f: int = 1,
    accumulate: int = 1,
    **options: Any,
) -> list[list[Tensor]]:
    """Return the gradients after some steps, in several small buckets, which DDP changes after the first step."""
    model = DistributedDataParallel(net().to(dtype), bucket_cap_mb=0.004, forward_sync_buffers=False)
    model.register_comm_hook(None, byzdist.ddp.robust_hook(rule, f=f, **options))
    found = []
    for step in range(3):
        model.zero_grad()
        for part in range(accumulate - 1):
            with model.no_sync():
                loss_of(model, rank, 100 * part + step, bad, dtype).backward()
        loss_of(model, rank, 100 * (accumulate - 1) + step, bad, dtype).backward()
        found.append(gradients(model))
    return found


def by_hand(
    ranks: int,
    bad: Callable[[Tensor], Tensor] = lambda loss: loss * -10,
    dtype: torch.dtype = torch.float32,
    rule: Any = "coordinate_median",
    f: int = 1,
    accumulate: int = 1,
) -> list[list[Tensor]]:
    """Return a column rule's aggregate of all ranks' gradients, computed in this process alone."""
    found = []
    for step in range(3):
        rows = []
        for rank in range(ranks):
            model = net().to(dtype)
            for part in range(accumulate):
                loss_of(model, rank, 100 * part + step, bad, dtype).backward()
            rows.append(gradients(model))
        aggregator = Aggregator(rule)
        stacked = [torch.stack([row[i].flatten() for row in rows]) for i in range(len(rows[0]))]
        results = [aggregator(V, f=f, nonfinite="drop").vector for V in stacked]
        found.append([result.view_as(like) for result, like in zip(results, rows[0], strict=True)])
    return found


def same(first: list[list[Tensor]], second: list[list[Tensor]]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def agreed(found: list[list[Tensor]], ranks: int) -> bool:
    """Return whether all ranks hold the same bits."""
    mine = torch.cat([tensor.flatten() for step in found for tensor in step]).double()
    gathered = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(gathered, mine)
    return all(torch.equal(mine.view(torch.int64), other.view(torch.int64)) for other in gathered)


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except (ConfigError, RuntimeError) as error:
        return str(error)
    return "nothing"


def main(store: str, rank: int, ranks: int) -> dict[str, Any]:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    told: dict[str, Any] = {}
    exact: dict[str, dict[str, Any]] = {
        "float32": {},
        "bfloat16": {"dtype": torch.bfloat16},
        "float16": {"dtype": torch.float16},
        "float64": {"dtype": torch.float64, "rule": "trimmed_mean"},
        "accumulated": {"accumulate": 3},
        "nan": {"bad": lambda loss: loss * float("nan"), "rule": "trimmed_mean"},
        "infinite": {"bad": lambda loss: loss * float("inf")},
    }
    for name, options in exact.items():
        found = steps(rank, **options)
        told[name] = [same(found, by_hand(ranks, **options)), agreed(found, ranks)]
    per_bucket: dict[str, dict[str, Any]] = {
        "krum": {"rule": {"name": "krum", "margin": 1}, "pre": ["nnm"]},
        "geometric_median": {"rule": "geometric_median"},
        "bucketing": {"rule": "mean", "pre": ["bucketing"], "f": 0, "seed": 5},
    }
    for name, options in per_bucket.items():
        found = steps(rank, **options)
        finite = all(tensor.isfinite().all() for step in found for tensor in step)
        told[name] = [bool(finite), agreed(found, ranks)]
    undeclared = steps(rank, bad=lambda loss: loss * float("nan"), rule="mean", f=0)
    told["undeclared"] = [bool(all(tensor.isnan().all() for step in undeclared for tensor in step)), True]
    told["two of four"] = refusal(lambda: byzdist.ddp.robust_hook("coordinate_median", f=2))
    told["bucketing of four"] = refusal(lambda: byzdist.ddp.robust_hook("trimmed_mean", pre=["bucketing"], f=1))
    pair = dist.new_group([0, 1])
    if rank < 2:
        model = DistributedDataParallel(net(), process_group=pair)
        model.register_comm_hook(pair, byzdist.ddp.robust_hook("coordinate_median", f=1))
        told["one of a group of two"] = refusal(lambda: model(batch(rank, 0, torch.float32)).sum().backward())
    dist.barrier()
    return told


if __name__ == "__main__":
    store, rank, ranks, out = sys.argv[1:]
    torch.set_num_threads(1)
    Path(out, f"{rank}.json").write_text(json.dumps(main(store, int(rank), int(ranks))))
    os._exit(0)  # torch may abort at exit while one of gloo's threads releases a tensor
