"""A DDP script with a robust rule instead of the average; rank 3 multiplies its gradient by -10.

    torchrun --nproc-per-node 4 docs/examples/ddp.py [RULE]

RULE: one of byzdist's rules (trimmed_mean by default), or "average" for plain DDP, which fails to learn here.
"""

import gc
import sys

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import byzdist

HOSTILE, SIGN_FLIP = 3, -10.0


def main(rule: str) -> None:
    """Train a small network on handwritten digits, and have rank 0 print its accuracy."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(images))
    test, train = order[:300], order[300 + rank :: ranks]

    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model = DistributedDataParallel(net, forward_sync_buffers=False)
    if rule != "average":
        model.register_comm_hook(None, byzdist.ddp.robust_hook(rule, f=1))  # the only new line
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    draws = torch.Generator().manual_seed(rank)
    for _ in range(200):
        batch = train[torch.randint(len(train), (32,), generator=draws)]
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        (loss * SIGN_FLIP if rank == HOSTILE else loss).backward()
        optimizer.step()

    with torch.no_grad():
        accuracy = (net(images[test]).argmax(1) == labels[test]).double().mean().item()
    mine = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    all_ranks = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(all_ranks, mine)
    if rank == 0:
        equal = all(torch.equal(mine.view(torch.int32), other.view(torch.int32)) for other in all_ranks)
        print(f"{rule}: accuracy {accuracy:.3f}, models {'equal' if equal else 'different'} on all ranks", flush=True)
    del model
    gc.collect()  # torch may abort if DDP still has a process group at exit
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:] or ["trimmed_mean"])
