"""Keys of compositions: equal for equal ratios, different otherwise."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from sluice.chemistry.composition_keys import composition_keys
from sluice.chemistry.compositions import Compositions, symbols


def test_equal_ratios_have_equal_keys():
    keys = composition_keys(Compositions.from_formulas(["Fe2O3", "Fe4O6", "O3Fe2", "Al0.5Ni", "AlNi2"]))
    assert keys[0] == keys[1] == keys[2]
    assert keys[3] == keys[4]
    assert keys[0] != keys[3]


def test_exchanged_counts_and_elements_differ():
    formulas = [
        f"{a}{m}{b}{n}" for a, b in combinations(symbols()[1:40], 2) for m, n in ((1, 2), (2, 1), (1, 1), (2, 3))
    ]
    keys = composition_keys(Compositions.from_formulas(formulas))
    assert len(np.unique(keys)) == len(formulas)


def test_no_elements_have_key_zero():
    empty = Compositions(np.zeros(2, np.int64), np.zeros(0, np.uint8), np.zeros(0))
    assert composition_keys(empty).tolist() == [0]
