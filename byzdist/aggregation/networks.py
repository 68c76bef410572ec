"""Selection networks: which pairs of rows to compare, in which order, so that given ranks come out of n rows."""

from functools import lru_cache
from typing import NamedTuple

LOW, HIGH = -1, -2  # wires whose ranks nobody asked for: below, above what is wanted


class Exchange(NamedTuple):
    """Put the smaller of two wires on ``low``, the larger on ``high``; a half that nobody reads later is left out."""

    low: int
    high: int
    keep_low: bool
    keep_high: bool


@lru_cache(maxsize=256)
def sorting_network(n: int) -> tuple[tuple[int, int], ...]:
    """Return Batcher's merge exchange for n wires: about n log2(n)^2 / 4 pairs (Knuth, vol. 3, 5.2.2, Algorithm M)."""
    pairs = []
    half = 1 << max(0, (n - 1).bit_length() - 1) if n > 1 else 0
    p = half
    while p:
        q, r, distance = half, 0, p
        while True:
            pairs += [(i, i + distance) for i in range(n - distance) if i & p == r]
            if q == p:
                break
            distance, q, r = q - p, q // 2, p
        p //= 2
    return tuple(pairs)


@lru_cache(maxsize=256)
def selection_network(labels: tuple[int, ...]) -> tuple[Exchange, ...]:
    """Return what is left of the sorting network when only some of the ranks matter.

    ``labels[k]`` says what rank k is wanted for: LOW or HIGH, not at all; a number >= 0 shared with other ranks, as a
    member of that set in any order; a number of its own, as exactly that rank. Walking backwards, an exchange between
    two wires of one label changes nothing that is asked for; before any other, both wires matter.
    """
    wires: list[int | None] = [label if labels.count(label) > 1 or label < 0 else None for label in labels]
    kept = []
    for low, high in reversed(sorting_network(len(labels))):
        if wires[low] is not None and wires[low] == wires[high]:
            continue
        kept.append(Exchange(low, high, wires[low] not in (LOW, HIGH), wires[high] not in (LOW, HIGH)))
        wires[low] = wires[high] = None
    return tuple(reversed(kept))
