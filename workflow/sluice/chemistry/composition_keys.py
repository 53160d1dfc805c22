"""Compositions as 64-bit keys, so that millions of them are counted and looked up without their formulas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.compositions import Compositions

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def composition_keys(compositions: Compositions) -> NDArray[np.uint64]:
    """(n,) keys, equal for equal ratios of the elements: Fe2O3 and Fe4O6 have the same; 0 for no elements.

    The key is the sum of well mixed numbers, one for each pair of element and count. Two of n different compositions
    share a key with a chance of about n² / 2⁶⁵: 1e-7 for two million.
    """
    counts = compositions.counts().astype(np.uint64)
    mixed = _mixed((counts << np.uint64(8)) | compositions.numbers.astype(np.uint64))
    keys = np.zeros(len(compositions), np.uint64)
    filled = compositions.sizes > 0
    if filled.any():
        keys[filled] = np.add.reduceat(mixed, compositions.offsets[:-1][filled])
    return keys


def is_in(keys: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(n,) whether each key is among the sorted known ones."""
    if len(known) == 0:
        return np.zeros(len(keys), dtype=bool)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return known[places] == keys


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    values = values * _WEYL
    for shift, factor in _MIX:
        values = (values ^ (values >> shift)) * factor
    return values ^ (values >> np.uint64(31))
