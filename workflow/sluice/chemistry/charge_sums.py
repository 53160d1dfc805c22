"""Which sums of charges can be reached: sets of sums as bits, for many formulas of equally many elements at a time.

Bit b of a set says that the sum b can be reached. Adding an element that may carry the charges q, q', … shifts the set
by each of them and joins the results. A set lies in 64-bit words, one row of the array a word, so that each operation
runs over all formulas at once; sums beyond the last word are dropped, which the callers see to.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
NEVER = np.uint64(1 << 40)  # a shift that leaves nothing: numpy shifts by 64 and more to 0


def start(shifts: Words, words: int) -> Words:
    """(words, g) sets of the charges of one element.

    Args:
        shifts: (s, g) charges ≥ 0 that it may carry, ``NEVER`` where it has fewer.
        words: length of a set.
    """
    empty = np.zeros((words, shifts.shape[1]), dtype=np.uint64)
    empty[0] = 1
    return add(empty, shifts)


def add(reached: Words, shifts: Words) -> Words:
    """(words, g) sets after one more element that may carry the given charges; arguments as in ``start``."""
    joined = np.zeros_like(reached)
    limit = np.uint64(64 * len(reached))
    for amounts in shifts:
        active = amounts < limit
        share = int(np.count_nonzero(active))
        if share == 0:
            continue
        if 2 * share < len(amounts):
            chosen = np.flatnonzero(active)
            joined[:, chosen] |= _shifted(reached[:, chosen], amounts[chosen])
        else:
            joined |= _shifted(reached, amounts)
    return joined


def _shifted(reached: Words, amounts: Words) -> Words:
    """Each set moved up by its own amount; a difference below zero wraps around to a shift that leaves nothing."""
    moved = np.empty_like(reached)
    for target in range(len(reached)):
        np.left_shift(reached[target], amounts, out=moved[target])
        for source in range(target):
            distance = np.uint64(64 * (target - source))
            moved[target] |= reached[source] << (amounts - distance)
            moved[target] |= reached[source] >> (distance - amounts)
    return moved


def holds(reached: Words, sums: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(g,) whether a sum ≥ 0 within the words is in each set."""
    word = reached[sums >> 6, np.arange(len(sums))]
    return ((word >> (sums & 63).astype(np.uint64)) & np.uint64(1)).astype(bool)


def add_exactly(reached: int, charges: Iterable[int]) -> int:
    """``add`` for one formula, the set being a Python integer of any length."""
    joined = 0
    for charge in charges:
        joined |= reached << charge
    return joined


def repeated(states: Iterable[int], count: int) -> list[int]:
    """Sums of ``count`` states, each ≥ 0 and chosen freely, in order; the only sum of no states at all is none."""
    states = sorted(set(states))
    if not states:
        return []
    low = states[0]
    steps = [state - low for state in states]
    total, power, left = 1, 1, count
    for step in steps:
        power |= 1 << step
    while left:  # (choices of one state)^count by squaring; * on sets is the sum of two of them
        if left & 1:
            total = _product(total, power)
        left >>= 1
        if left:
            power = _product(power, power)
    return [low * count + bit for bit in bits(total)]


def _product(first: int, second: int) -> int:
    if first.bit_count() < second.bit_count():
        first, second = second, first
    return add_exactly(first, bits(second))


def bits(reached: int) -> list[int]:
    """Sums in a set held as a Python integer."""
    text = bin(reached)[:1:-1]
    found, position = [], text.find("1")
    while position >= 0:
        found.append(position)
        position = text.find("1", position + 1)
    return found
