"""A bare parameter server on torch.distributed, the yardstick of rounds.py and models.py.

usage: torchrun ... tests/benchmarks/bare.py CONFIG [key=value ...]

It makes the same sends as byzdist (point-to-point with the cohort's workers, broadcast and gather in full rounds of
all clients, x^{k-1} only to those who lack it) and computes the same gradients, and does nothing else: no headers,
checks, clipping, robust rule or metrics. The server takes the mean. It does so in the best way that we know of: gloo,
`threads` threads a process (1), receives posted before their messages are sent, a reply on its way while the next one
is computed, buffers that are made once, and one full gradient for all clients of a worker that have the same samples.

It prints a line of JSON: of each round its seconds, from the end of the round before, and how many of them its
slowest worker computes gradients, draws of batches included.
"""

import json
import sys
import time
from typing import NamedTuple

import torch
import torch.distributed as dist

from byzdist.config import load
from byzdist.experiment import Experiment, prepare
from byzdist.methods import Task
from byzdist.sampling import draw_cohort


class Round(NamedTuple):
    """What all know of a round beforehand; ``hosts``: the cohort by rank; ``lacking``: the ranks without x^{k-1}."""

    k: int
    full: bool
    collective: bool
    cohort: list[int]
    hosts: dict[int, list[int]]
    lacking: set[int]


def plan(experiment: Experiment, workers: int) -> list[Round]:
    config, method = experiment.config, experiment.method
    n, rounds, last = config.clients.count, [], dict.fromkeys(range(1, workers + 1), -1)
    for k in range(config.rounds + 1):
        full = k == 0 or method.is_full(config.seed, k)
        cohort = draw_cohort(config.seed, k, n, method.full_cohort if full else method.cohort).tolist()
        hosts: dict[int, list[int]] = {}
        for client in cohort:
            hosts.setdefault(1 + client % workers, []).append(client)
        lacking = {r for r in hosts if method.sends_differences and not full and last[r] != k - 1}
        last.update(dict.fromkeys(hosts, k))
        rounds.append(Round(k, full, full and len(cohort) == n and n % workers == 0, cohort, hosts, lacking))
    return rounds


def serve(experiment: Experiment, rounds: list[Round], workers: int) -> list[float]:
    """Return the seconds of each round."""
    method, d, dtype = experiment.method, experiment.oracle.dimension, experiment.dtype
    x = torch.zeros(2 * d, dtype=dtype)  # x^k, then x^{k-1}
    x[:d] = experiment.oracle.initial()
    g, mean, own = torch.zeros(3, d, dtype=dtype)
    rows = torch.zeros(max(method.cohort, method.full_cohort), d, dtype=dtype)
    times = [time.perf_counter()]
    for _, full, collective, cohort, hosts, lacking in rounds:
        if method.sends_differences:
            x[d:] = x[:d]
        x[:d].add_(g, alpha=-method.step_size)
        if collective:
            works = [dist.broadcast(x[:d], 0, async_op=True)]
            for turn in range(0, len(cohort), workers):
                works.append(dist.gather(own, [own, *rows[turn : turn + workers]], 0, async_op=True))
        else:
            works = [dist.irecv(rows[i], 1 + client % workers) for i, client in enumerate(cohort)]
            works += [dist.isend(x if rank in lacking else x[:d], rank) for rank in sorted(hosts)]
        for work in works:
            work.wait()
        torch.mean(rows[: len(cohort)], 0, out=mean)
        if full or not method.sends_differences:
            g.copy_(mean)
        else:
            g.add_(mean)
        times.append(time.perf_counter())
    return [after - before for before, after in zip(times, times[1:], strict=False)]


def work(experiment: Experiment, rounds: list[Round], rank: int, spent: torch.Tensor) -> None:
    """Fill ``spent`` with the seconds of each round's gradients."""
    oracle, method, d = experiment.oracle, experiment.method, experiment.oracle.dimension
    frames = [torch.zeros(2 * d, dtype=experiment.dtype) for _ in range(2)]  # of this request, and of the one before
    outs = [torch.zeros(d, dtype=experiment.dtype) for _ in range(2)]
    sending: list[dist.Work | None] = [None, None]
    mine = iter([round_ for round_ in rounds if rank in round_.hosts])

    def expect() -> tuple[Round, dist.Work] | None:
        """Post the receive of the next request, where x^{k-1} has served its purpose."""
        if (coming := next(mine, None)) is None:
            return None
        if coming.collective:
            return coming, dist.broadcast(frames[1][:d], 0, async_op=True)
        return coming, dist.irecv(frames[1] if rank in coming.lacking else frames[1][:d], 0)

    expected = expect()
    while expected is not None:
        (k, full, collective, _, hosts, lacking), arrival = expected
        arrival.wait()
        frames.reverse()
        x, old = frames[0][:d], frames[0][d:] if rank in lacking else frames[1][:d]
        oracle.move()
        for client in hosts[rank]:
            outs.reverse()
            sending.reverse()
            if sending[0] is not None:
                sending[0].wait()
            started = time.perf_counter()
            method.message(oracle, Task(k, full, client, experiment.config.seed, x, None if full else old), outs[0])
            spent[k] += time.perf_counter() - started
            if collective:
                sending[0] = dist.gather(outs[0], None, 0, async_op=True)
            else:
                if client == hosts[rank][-1]:
                    expected = expect()
                sending[0] = dist.isend(outs[0], 0)
        if collective:  # collectives come in the same order everywhere
            expected = expect()
    for last in sending:
        if last is not None:
            last.wait()


def main() -> None:
    config = load(sys.argv[1], sys.argv[2:])
    torch.set_num_threads(config.threads)
    experiment = prepare(config, torch.device("cpu"))
    dist.init_process_group("gloo")
    rank, workers = dist.get_rank(), dist.get_world_size() - 1
    rounds = plan(experiment, workers)
    spent = torch.zeros(len(rounds), dtype=torch.float64)
    if rank == 0:
        seconds = serve(experiment, rounds, workers)
        of_ranks = [torch.zeros_like(spent) for _ in range(1 + workers)]
        dist.gather(spent, of_ranks, 0)
        print(json.dumps([seconds, torch.stack(of_ranks).amax(0).tolist()]))
    else:
        work(experiment, rounds, rank, spent)
        dist.gather(spent, None, 0)
    dist.destroy_process_group()


main()
