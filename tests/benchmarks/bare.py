"""A bare parameter server on torch.distributed, the yardstick of rounds.py and models.py.

usage: torchrun ... tests/benchmarks/bare.py CONFIG [key=value ...]

It makes the same sends as byzdist: point-to-point with the cohort's workers, broadcast and gather in full rounds of
all clients, x^{k-1} only to those who lack it, as many messages and as long ones. It computes the same gradients, and
does nothing else: no checks, clipping, robust rule or metrics. The server takes the mean. It does so in the best way
that we know of: gloo, `threads` threads a process (1), receives posted before their messages are sent, a reply on its
way while the next one is computed, buffers that are made once, and one full gradient for all clients of a worker that
have the same samples.

It prints a line of JSON: of each round its seconds, from the end of the round before, and how many of them its
slowest worker computes gradients, draws of batches included.
"""

import json
import sys
import time

import torch
import torch.distributed as dist

from byzdist.config.reading import load
from byzdist.methods import ClientTask
from byzdist.participation import draw_cohort
from byzdist.rounds import Round
from byzdist.runtime.experiment import Experiment, prepare

HEAD = 64  # bytes before the ids of a request and the values of a reply, which begin at multiples of it
STOP, SAMPLED, FULL, COLLECTIVE = range(4)


class Request:
    """A request: a head with k, what is asked and the cohort's size; the cohort, x^k and x^{k-1}."""

    def __init__(self, experiment: Experiment) -> None:
        d, dtype, few = experiment.oracle.dimension, experiment.dtype, experiment.method.cohort
        self.model_at, self.step = HEAD + -(-4 * few // HEAD) * HEAD, d * dtype.itemsize
        self.buffer = torch.zeros(self.model_at + 2 * self.step, dtype=torch.uint8)
        self.head = self.buffer[:HEAD].view(torch.int32)
        self.ids = self.buffer[HEAD : self.model_at].view(torch.int32)
        self.x, self.old = self.buffer[self.model_at :].view(dtype).view(2, d)

    def part(self, models: int) -> torch.Tensor:
        """Return the message with so many models."""
        return self.buffer[: self.model_at + models * self.step if models else HEAD]


def replies(experiment: Experiment, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return room for replies, and the vectors in it."""
    length = experiment.oracle.dimension * experiment.dtype.itemsize
    room = torch.zeros(count, HEAD + -(-length // HEAD) * HEAD, dtype=torch.uint8)
    return room[:, : HEAD + length], room[:, HEAD : HEAD + length].view(experiment.dtype)


def serve(experiment: Experiment, workers: int) -> list[float]:
    """Return the seconds of each round."""
    config, method, n = experiment.config, experiment.method, experiment.config.clients.count
    request = Request(experiment)
    request.x.copy_(experiment.oracle.initial())
    rows, vectors = replies(experiment, max(method.cohort, method.full_cohort) + 1)
    g, mean = torch.zeros(2, experiment.oracle.dimension, dtype=experiment.dtype)
    holders = dict.fromkeys(range(1, workers + 1), -1)  # of which x^k
    times = [time.perf_counter()]
    for k in range(config.rounds + 1):
        full = k == 0 or method.is_full(Round(k, config.seed))
        cohort = draw_cohort(Round(k, config.seed), n, method.full_cohort if full else method.cohort).tolist()
        collective = full and len(cohort) == n and n % workers == 0
        if method.sends_differences:
            request.old.copy_(request.x)
        request.x.add_(g, alpha=-method.step(0))
        request.head[:3] = torch.tensor([k, COLLECTIVE if collective else FULL if full else SAMPLED, len(cohort)])
        works = []
        if collective:
            works += [dist.isend(request.part(0), rank) for rank in holders]
            works.append(dist.broadcast(request.x, 0, async_op=True))
            for turn in range(0, n, workers):
                works.append(dist.gather(rows[-1], [rows[-1], *rows[turn : turn + workers]], 0, async_op=True))
            holders = dict.fromkeys(holders, k)
        else:
            request.ids[: len(cohort)] = torch.tensor(cohort)
            works += [dist.irecv(rows[i], 1 + client % workers) for i, client in enumerate(cohort)]
            for rank in {1 + client % workers for client in cohort}:
                lacks = method.sends_differences and not full and holders[rank] != k - 1
                works.append(dist.isend(request.part(2 if lacks else 1), rank))
                holders[rank] = k
        for work in works:
            work.wait()
        torch.mean(vectors[: len(cohort)], 0, out=mean)
        if full or not method.sends_differences:
            g.copy_(mean)
        else:
            g.add_(mean)
        times.append(time.perf_counter())
    request.head[1] = STOP
    for work in [dist.isend(request.part(0), rank) for rank in holders]:
        work.wait()
    return [after - before for before, after in zip(times, times[1:], strict=False)]


def work(experiment: Experiment, rank: int, workers: int, spent: torch.Tensor) -> None:
    """Fill ``spent`` with the seconds of each round's gradients."""
    oracle, method, config = experiment.oracle, experiment.method, experiment.config
    here, before = Request(experiment), Request(experiment)
    held = -1
    rows, vectors = replies(experiment, 2)
    sending: list[dist.Work | None] = [None, None]
    expected = dist.irecv(before.buffer, 0)
    while True:
        expected.wait()
        here, before = before, here
        k, kind, count, *_ = here.head.tolist()
        if kind == STOP:
            break
        if kind == COLLECTIVE:
            dist.broadcast(here.x, 0)
        cohort = range(config.clients.count) if kind == COLLECTIVE else here.ids[:count].tolist()
        mine = [client for client in cohort if 1 + client % workers == rank]
        old = before.x if held == k - 1 else here.old
        held = k
        oracle.begin(Round(k, config.seed, kind != SAMPLED), here.x, old)
        for turn, client in enumerate(mine):
            if (last := sending[turn % 2]) is not None:
                last.wait()
            started = time.perf_counter()
            task = ClientTask(Round(k, config.seed, kind != SAMPLED), client, here.x, old if kind == SAMPLED else None)
            method.message(oracle, task, vectors[turn % 2])
            spent[k] += time.perf_counter() - started
            if kind == COLLECTIVE:
                sending[turn % 2] = dist.gather(rows[turn % 2], None, 0, async_op=True)
            else:
                if client == mine[-1]:  # x^{k-1} has served its purpose
                    expected = dist.irecv(before.buffer, 0)
                sending[turn % 2] = dist.isend(rows[turn % 2], 0)
        if kind == COLLECTIVE:
            expected = dist.irecv(before.buffer, 0)
    for last in sending:
        if last is not None:
            last.wait()


def main() -> None:
    config = load(sys.argv[1], sys.argv[2:])
    torch.set_num_threads(config.threads)
    experiment = prepare(config, torch.device("cpu"))
    dist.init_process_group("gloo")
    rank, workers = dist.get_rank(), dist.get_world_size() - 1
    spent = torch.zeros(config.rounds + 1, dtype=torch.float64)
    if rank == 0:
        seconds = serve(experiment, workers)
        of_ranks = [torch.zeros_like(spent) for _ in range(1 + workers)]
        dist.gather(spent, of_ranks, 0)
        print(json.dumps([seconds, torch.stack(of_ranks).amax(0).tolist()]))
    else:
        work(experiment, rank, workers, spent)
        dist.gather(spent, None, 0)
    dist.destroy_process_group()


main()
