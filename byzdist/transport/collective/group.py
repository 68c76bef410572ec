"""The default process group: how it opens, what it sends, and what its failures mean."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from byzdist.errors import RunError
from byzdist.torch_private import Store

SERVER = 0
_PATIENCE = timedelta(days=7)  # workers wait as long as the server lives: only the server's deadlines count


def open_group(store: Store, rank: int, world_size: int, device: torch.device, joining: float = 300.0) -> None:
    """Open the default process group on ``store``, once all ranks are there.

    Raises:
        RunError: if some are missing after ``joining`` seconds; gloo itself would wait as long as it waits for a request.
    """
    store.set(f"here/{rank}", "")
    try:
        store.wait([f"here/{other}" for other in range(world_size)], timedelta(seconds=joining))
    except dist.DistError:
        lacking = [other for other in range(world_size) if not store.check([f"here/{other}"])]
        raise RunError(f"ranks {lacking} did not come within {joining:g} s.") from None
    backend = "gloo"
    if device.type != "cpu":
        backend = f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_PATIENCE)


def isend(message: Tensor, rank: int) -> dist.Work:
    """Start to send; keep the work and wait for it, or the message may never arrive."""
    return _group().send([message], rank, 0)


def irecv(buffer: Tensor, rank: int) -> dist.Work:
    """Start to receive a message of at most the buffer's size; a longer one aborts this process."""
    return _group().recv([buffer], rank, 0)


def _group() -> dist.ProcessGroup:
    """Return the default group, whose methods skip the checks that torch.distributed's functions make at each call."""
    assert dist.group.WORLD is not None, "it has been opened"
    return dist.group.WORLD


def time_left(until: float) -> timedelta:
    """Return the time left until then, at least a millisecond, because 0 would mean for ever."""
    return timedelta(seconds=max(until - time.monotonic(), 0.001))


def cause(error: RuntimeError) -> str:
    """Return what gloo says of a failure, without its source positions and advice."""
    return re.sub(r"\[\S*/\S+:\d+\] ?", "", str(error).splitlines()[0]).split(". This is")[0]


@contextmanager
def run_ends_if(broken: str) -> Iterator[None]:
    """Turn what torch raises on a broken connection into a RunError that begins with ``broken``."""
    try:
        yield
    except RunError:
        raise
    except RuntimeError as error:
        raise RunError(f"{broken}: {cause(error)}") from None
