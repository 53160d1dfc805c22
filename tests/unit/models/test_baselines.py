"""Baselines of scikit-learn."""

import numpy as np
import pytest

from sluice.chemistry.composition_table import CompositionTable, random_split
from sluice.chemistry.compositions import Compositions
from sluice.chemistry.encodings import ElementFractions, Magpie
from sluice.models.baselines import fit_baseline


@pytest.mark.parametrize("baseline", ["random_forest", "gradient_boosting"])
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_better_than_the_mean_and_deaf_to_held_out_rows(baseline, task):
    rng = np.random.default_rng(0)
    texts = sorted(
        {f"{rng.choice(['Li', 'Na', 'K', 'Fe'])}{rng.integers(1, 9)}O{rng.integers(1, 9)}" for _ in range(150)}
    )
    compositions = Compositions.from_formulas(texts)
    target = np.bincount(compositions.rows, compositions.numbers * compositions.fractions)
    if task == "classification":
        target = (target > np.median(target)) * 1.0
    split = random_split(len(target), (0.0, 0.3), 1)
    table = CompositionTable(compositions, target, split)
    options = {"task": task, "trees": 30, "seed": 1}
    found = fit_baseline(table, Magpie(), baseline, **options)
    test = table.rows("test")
    spread = np.abs(target[test] - target[table.rows("train")].mean()).mean()
    assert np.abs(found - target)[test].mean() < 0.6 * spread
    other = target.copy()
    other[test] = 1 - other[test]
    again = fit_baseline(CompositionTable(compositions, other, split), Magpie(), baseline, **options)
    assert np.array_equal(again, found)
    assert fit_baseline(table, ElementFractions(), baseline, **options).shape == target.shape
