"""Selection networks: which pairs of rows to compare, in which order, so that given ranks come out of n rows."""

from functools import lru_cache
from typing import NamedTuple

# Ten wires in 29 exchanges, the fewest possible; Batcher's takes 31. Twenty rows are twice ten.
_TEN = "08 19 27 35 46 02 14 58 79 03 24 57 69 01 36 89 15 23 48 67 12 35 46 78 23 45 67 34 56".split()
LOW, HIGH = -1, -2  # wires whose ranks nobody asked for: below, above what is wanted


class Exchange(NamedTuple):
    """Put the smaller of two wires on ``low``, the larger on ``high``; a half that nobody reads later is left out."""

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

    One half is sorted before the other is begun, so that the rows at work are few and stay in the cache.
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
