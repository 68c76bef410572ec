"""Threads for work that has none of its own: calls of numpy and of C, which let others run meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


@lru_cache(maxsize=1)
def _team(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "aggregation")


def on_slices(columns: int, fewest: int, work: Callable[[slice], None]) -> None:
    """Call ``work`` on slices that cover the columns, at least ``fewest`` in each but the last, by torch's number of threads."""
    threads = torch.get_num_threads()
    share = max(fewest, -(-columns // threads))
    slices = [slice(start, min(start + share, columns)) for start in range(0, columns, share)]
    if len(slices) == 1:
        work(slices[0])
        return
    for job in [_team(threads).submit(work, some) for some in slices]:
        job.result()
