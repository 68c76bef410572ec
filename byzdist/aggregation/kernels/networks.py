"""Selection networks: which pairs of n rows to compare, in which order, to find the values of given ranks."""

from functools import lru_cache
from typing import NamedTuple

# Ten wires in 29 exchanges, the fewest possible; Batcher's network takes 31. Networks of 20, 40, ... rows are built from it.
_TEN = "08 19 27 35 46 02 14 58 79 03 24 57 69 01 36 89 15 23 48 67 12 35 46 78 23 45 67 34 56".split()
LOW, HIGH = -1, -2  # labels of ranks that are not wanted: below and above those that are


class Exchange(NamedTuple):
    """Two wires whose smaller value goes to ``low``, the larger to ``high``; ``keep_low`` and ``keep_high`` say which is read later."""

    low: int
    high: int
    keep_low: bool
    keep_high: bool


def _merge(a: list[int], b: list[int], pairs: list[tuple[int, int]]) -> list[int]:
    """Append the exchanges that merge two sorted lists of wires; return the wires in their final order."""
    if not a or not b:
        return a + b
    if len(a) == len(b) == 1:
        pairs.append((a[0], b[0]))
        return a + b
    even, odd = _merge(a[0::2], b[0::2], pairs), _merge(a[1::2], b[1::2], pairs)
    crossing = list(zip(odd, even[1:], strict=False))
    pairs += crossing
    return [even[0], *(wire for pair in crossing for wire in pair), *odd[len(crossing) :], *even[len(crossing) + 1 :]]


@lru_cache(maxsize=256)
def sorting_network(n: int) -> tuple[tuple[int, int], ...]:
    """Return Batcher's odd-even merge sort of n wires, about n log2(n)^2 / 4 pairs (Knuth, vol. 3, 5.3.4).

    The first half is sorted completely before the second: so few rows are in use at a time, and they stay in the cache.
    """
    pairs: list[tuple[int, int]] = []

    def sort(wires: list[int]) -> list[int]:
        if len(wires) == 10:
            pairs.extend((wires[int(pair[0])], wires[int(pair[1])]) for pair in _TEN)
            return wires
        half = len(wires) // 2
        return _merge(sort(wires[:half]), sort(wires[half:]), pairs) if half else wires

    place = {wire: rank for rank, wire in enumerate(sort(list(range(n))))}
    return tuple((place[low], place[high]) for low, high in pairs)


@lru_cache(maxsize=256)
def selection_network(labels: tuple[int, ...]) -> tuple[Exchange, ...]:
    """Return the part of the sorting network that is needed if only some of the ranks matter.

    ``labels[k]`` says how rank k is wanted. LOW or HIGH: not at all. A number >= 0 that other ranks share: as a member of
    that set, in any order. A number of its own: exactly. The exchanges are examined from the last to the first: one between
    two wires of the same label changes nothing that is wanted and is left out; before any other, both wires matter.
    """
    wires: list[int | None] = [label if labels.count(label) > 1 or label < 0 else None for label in labels]
    kept = []
    for low, high in reversed(sorting_network(len(labels))):
        if wires[low] is not None and wires[low] == wires[high]:
            continue
        kept.append(Exchange(low, high, wires[low] not in (LOW, HIGH), wires[high] not in (LOW, HIGH)))
        wires[low] = wires[high] = None
    return tuple(reversed(kept))
