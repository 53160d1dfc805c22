"""What makes a good descriptor of compositions: invariance, degeneracy, smoothness, transformability, each measured."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, permutations

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.compositions import Compositions
from sluice.chemistry.encodings import Encoding

SAME = 1e-6  # relative difference of two codes that count as equal
STEPS = (1e-2, 1e-3)
ORDERS = 6  # ways to write a formula that are compared


@dataclass(frozen=True)
class DescriptorProperties:
    """Which of the four properties an encoding has on some compositions.

    Attributes:
        invariant: a formula written in another order, or for twice the atoms, has the same code.
        unique: different compositions have different codes (no degeneracy).
        smooth: the code moves in proportion to a small change of an amount: ten times less moves it ten times less.
        transformable: the composition can be had back from its code.
        collisions: pairs of different compositions with the same code.
    """

    invariant: bool
    unique: bool
    smooth: bool
    transformable: bool
    collisions: int


def descriptor_properties(encoding: Encoding, compositions: Compositions) -> DescriptorProperties:
    """Measure the four properties on compositions that are all different and within the encoding."""
    code = _flat(encoding, compositions)
    collisions = _collisions(code)
    back = True
    if encoding.invertible:
        again = encoding.decode(encoding.encode(compositions))
        back = again.formulas() == _reduced(compositions).formulas()
    return DescriptorProperties(
        invariant=_invariant(encoding, compositions, code),
        unique=collisions == 0,
        smooth=_smooth(encoding, compositions),
        transformable=encoding.invertible and back,
        collisions=collisions,
    )


def _flat(encoding: Encoding, compositions: Compositions) -> NDArray[np.float64]:
    return encoding.encode(compositions).reshape(len(compositions), int(np.prod(encoding.shape))).astype(float)


def _reduced(compositions: Compositions) -> Compositions:
    return Compositions(compositions.offsets, compositions.numbers, compositions.counts().astype(float))


def _invariant(encoding: Encoding, compositions: Compositions, code: NDArray[np.float64]) -> bool:
    twice = Compositions(compositions.offsets, compositions.numbers, 2 * compositions.amounts)
    if not np.allclose(_flat(encoding, twice), code, rtol=SAME, atol=SAME):
        return False
    for row in range(len(compositions)):
        entries = compositions[[row]]
        texts = _texts(entries)
        other = _flat(encoding, Compositions.from_formulas(texts))
        if not np.allclose(other, code[row], rtol=SAME, atol=SAME):
            return False
    return True


def _texts(one: Compositions) -> list[str]:
    """The formula of one composition with its elements in several orders, as many as there are up to ``ORDERS``."""
    whole = one.formulas()[0]
    parts = [
        Compositions(np.array([0, 1]), one.numbers[[k]], one.amounts[[k]]).formulas()[0]
        for k in range(len(one.numbers))
    ]
    return [whole, *("".join(order) for order in islice(permutations(parts), ORDERS - 1))]


def _collisions(code: NDArray[np.float64]) -> int:
    """Pairs of equal rows."""
    scale = np.abs(code).max(initial=1.0)
    _, counts = np.unique(np.rint(code / scale / SAME), axis=0, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())


def _smooth(encoding: Encoding, compositions: Compositions) -> bool:
    """Compare what a small and a ten times smaller change of the first amount of each composition does to its code."""
    several = compositions[compositions.sizes > 1]
    before = _flat(encoding, several)
    change = []
    for step in STEPS:
        amounts = several.amounts.copy()
        amounts[several.offsets[:-1]] *= 1 + step
        moved = Compositions(several.offsets, several.numbers, amounts)
        change.append(np.abs(_flat(encoding, moved) - before).sum(axis=1))
    ratio = STEPS[0] / STEPS[1]
    return bool((change[1] * ratio <= 1.5 * change[0] + SAME * ratio * np.abs(before).sum(axis=1)).all())
