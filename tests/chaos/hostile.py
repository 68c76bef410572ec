"""A worker that sends anything: ``python -m tests.chaos.hostile PORT RANK SEED COUNT``.

It answers each request with one hostile message, joins again whenever its link is gone, and prints what it has sent, by
kind.
"""

import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from byzdist.transport.keys import worker_key
from byzdist.transport.star.link import Link, LinkLost, join
from byzdist.transport.store import connect
from byzdist.transport.wire import HEADER_BYTES, Header
from tests.support.star import SECRET, meet_at, reply

LENGTH = 80  # bytes of an honest payload
Forge = Callable[[np.random.Generator, int, int], Tensor]


def noise(rng: np.random.Generator, size: int) -> Tensor:
    return torch.from_numpy(rng.integers(0, 256, size, dtype=np.uint8))


def honest(rng: np.random.Generator, round_: int, client: int) -> Tensor:
    return reply(round_, client, torch.from_numpy(rng.standard_normal(LENGTH // 8)))


def flipped(rng: np.random.Generator, round_: int, client: int) -> Tensor:
    """Some bits of an honest message, most of them in the header."""
    message = honest(rng, round_, client)
    for _ in range(rng.integers(1, 5)):
        message[rng.integers(0, HEADER_BYTES if rng.random() < 0.7 else len(message))] ^= 1 << int(rng.integers(8))
    return message


def lying(rng: np.random.Generator, round_: int, client: int) -> Tensor:
    """A well-formed header with extreme numbers."""
    extreme = [0, 1, 2**31, 2**32 - 1, client, round_]
    return reply(
        int(rng.choice(extreme)),
        int(rng.choice(extreme)),
        torch.zeros(LENGTH // 8, dtype=torch.float64),
        length=[0, 1, 2**32, 2**63, 2**64 - 1][rng.integers(5)] if rng.random() < 0.5 else LENGTH,
        checksum=int(rng.integers(2**63)),
    )


KINDS: dict[str, Forge] = {
    "noise": lambda rng, round_, client: noise(rng, HEADER_BYTES + LENGTH),
    "short": lambda rng, round_, client: honest(rng, round_, client)[: rng.integers(HEADER_BYTES + LENGTH)],
    "flipped": flipped,
    "lying": lying,
    "replayed": lambda rng, round_, client: honest(rng, int(rng.integers(max(1, round_))), client),
    "not finite": lambda rng, round_, client: reply(round_, client, torch.full((LENGTH // 8,), torch.nan).double()),
    "another kind": lambda rng, round_, client: reply(
        round_, client, torch.zeros(LENGTH // 8, dtype=torch.float64), kind=int(rng.choice([0, 1, 2, 3, 5, 255]))
    ),
    "oversize": lambda rng, round_, client: noise(rng, int(rng.integers(200, 1_000_000))),
}


def weights(count: int) -> np.ndarray:
    """Return how often each kind is sent; of the last kind at most some hundred, because each of them costs the link."""
    often = np.array([1, 1, 3, 2, 1, 1, 1, min(0.5, 1000 / count)])
    return often / often.sum()


def attack(link: Link, rng: np.random.Generator, client: int, sent: Counter[str], count: int) -> None:
    request, chances = torch.zeros(10_000, dtype=torch.uint8), weights(count)
    while sent.total() < count:
        link.receive(request)
        kind = str(rng.choice(list(KINDS), p=chances))
        sent[kind] += 1
        link.send(KINDS[kind](rng, Header.read(request).round, client))


def main() -> None:
    port, rank, seed, count = map(int, sys.argv[1:])
    meet_at(port)
    rng, sent = np.random.default_rng(seed), Counter[str]()
    while sent.total() < count:
        joined = join(connect, rank, worker_key(SECRET, rank), 60.0)
        if joined is None:
            break
        try:
            attack(joined.link, rng, rank - 1, sent, count)
        except LinkLost:
            continue
    print(dict(sent), flush=True)


if __name__ == "__main__":
    main()
