"""A bare parameter server on torch.distributed, the yardstick of round_time.py: `torchrun ... bare.py CONFIG [key=value ...]`.

It makes the same sends (point-to-point with the cohort's workers, broadcast and gather in full rounds, x^{k-1} only to those
who lack it) and computes the same gradients as byzdist, and does nothing else: no headers, checks, clipping, robust rule or
metrics. The server takes the mean. The last line it prints is seconds a round.
"""

import sys
import time

import torch
import torch.distributed as dist

from byzdist.config import load
from byzdist.experiment import prepare
from byzdist.methods import Task
from byzdist.sampling import draw_cohort


def main() -> None:
    config = load(sys.argv[1], sys.argv[2:])
    torch.set_num_threads(config.threads)
    experiment = prepare(config, torch.device("cpu"))
    oracle, method = experiment.oracle, experiment.method
    n, seed, d = config.clients.count, config.seed, oracle.dimension
    dist.init_process_group("gloo")
    rank, workers = dist.get_rank(), dist.get_world_size() - 1
    plan = []
    for k in range(config.rounds + 1):
        full = k == 0 or method.is_full(seed, k)
        plan.append((k, full, draw_cohort(seed, k, n, method.full_cohort if full else method.cohort).tolist()))
    x = torch.zeros(2 * d, dtype=experiment.dtype)  # x^k, then x^{k-1}
    x[:d] = oracle.initial()
    g = torch.zeros(d, dtype=experiment.dtype)
    rows = torch.zeros(n, d, dtype=experiment.dtype)
    own = torch.zeros(d, dtype=experiment.dtype)
    last = dict.fromkeys(range(1, workers + 1), -1)

    def parts(r: int, k: int, full: bool) -> torch.Tensor:
        lacks = method.sends_differences and not full and last[r] != k - 1
        last[r] = k
        return x if lacks else x[:d]

    def serve(k: int, full: bool, cohort: list[int]) -> None:
        x[d:] = x[:d]
        x[:d].add_(g, alpha=-method.step_size)
        if full:
            dist.broadcast(x[:d], 0)
            for r in last:
                last[r] = k
            for turn in range(n // workers):
                dist.gather(own, [own, *rows[turn * workers : (turn + 1) * workers]], 0)
        else:
            hosts = {1 + client % workers for client in cohort}
            works = [dist.isend(parts(r, k, full), r) for r in hosts]
            works += [dist.irecv(rows[i], 1 + client % workers) for i, client in enumerate(cohort)]
            for work in works:
                work.wait()
        mean = rows[: len(cohort)].mean(0)
        if full or not method.sends_differences:
            g.copy_(mean)
        else:
            g.add_(mean)

    previous, out = torch.zeros_like(g), torch.zeros_like(g)

    def work(k: int, full: bool, cohort: list[int]) -> None:
        mine = [client for client in cohort if 1 + client % workers == rank]
        if not full and not mine:
            return
        previous.copy_(x[:d])
        both = parts(rank, k, full)
        if full:
            dist.broadcast(x[:d], 0)
        else:
            dist.recv(both, 0)
        old = x[d:] if len(both) > d else previous
        for client in mine:
            method.message(oracle, Task(k, full, client, seed, x[:d], None if full else old), out)
            if full:
                dist.gather(out, None, 0)
            else:
                dist.send(out, 0)

    step = serve if rank == 0 else work
    step(*plan[0])
    started = time.perf_counter()
    for k, full, cohort in plan[1:]:
        step(k, full, cohort)
    if rank == 0:
        print((time.perf_counter() - started) / config.rounds)
    dist.destroy_process_group()


main()
