"""Faults, a kind of Byzantine behaviour: they test how a run copes with workers that die, hang, or break the wire format.

Some act while the client makes its message, the others replace its finished reply on the wire. If a worker process hosts
several clients, a fault of one of them can also stop the others.
"""

import os
import signal
import time
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from byzdist.attacks.base import ATTACKS, Context, Envelope, on_process, on_wire

Probability = Annotated[float, Gt(0), Le(1)]
Seconds = Annotated[float, Gt(0)]
_FOREVER = 10.0**8


def _strikes(now: Context | Envelope, probability: float) -> bool:
    return now.round.rng("fault", now.client).random() < probability


@ATTACKS.register("crash")
@on_process
def crash(now: Context, *, probability: Probability = 1.0) -> Tensor:
    """Kill the worker process at once (SIGKILL), with the given probability at each request."""
    if _strikes(now, probability):
        os.kill(os.getpid(), signal.SIGKILL)
    return now.honest


@ATTACKS.register("hang")
@on_process
def hang(now: Context, *, probability: Probability = 1.0) -> Tensor:
    """Make the worker process stop answering for good."""
    if _strikes(now, probability):
        time.sleep(_FOREVER)
    return now.honest


@ATTACKS.register("slow", "straggler")
@on_process
def slow(now: Context, *, seconds: Seconds = 1.0, probability: Probability = 1.0) -> Tensor:
    """Answer ``seconds`` late; this delays the worker's other clients as well."""
    if _strikes(now, probability):
        time.sleep(seconds)
    return now.honest


@ATTACKS.register("oversize")
@on_wire
def oversize(now: Envelope, *, probability: Probability = 1.0) -> Tensor:
    """Send a message that is longer than the server's buffer."""
    if not _strikes(now, probability):
        return now.message
    return torch.zeros(2 * now.message.untyped_storage().nbytes(), dtype=torch.uint8)


@ATTACKS.register("short")
@on_wire
def short(now: Envelope, *, size: Annotated[int, Ge(1)] = 10, probability: Probability = 1.0) -> Tensor:
    """Send only the first ``size`` bytes of the reply."""
    return now.message[:size] if _strikes(now, probability) else now.message


@ATTACKS.register("garbage")
@on_wire
def garbage(now: Envelope, *, probability: Probability = 1.0) -> Tensor:
    """Send random bytes, of the reply's size."""
    if not _strikes(now, probability):
        return now.message
    noise = now.round.rng("garbage", now.client).bytes(len(now.message))
    return torch.frombuffer(bytearray(noise), dtype=torch.uint8)


@ATTACKS.register("replay")
@on_wire
def replay(now: Envelope, *, probability: Probability = 1.0) -> Tensor:
    """Send this client's previous reply again, header included; its first reply is honest."""
    return now.earlier if now.earlier is not None and _strikes(now, probability) else now.message
