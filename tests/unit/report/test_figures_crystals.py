"""Figures of crystals."""

from __future__ import annotations

import numpy as np
import pytest

from sluice.report.distributions import Distributions
from sluice.report.figures_crystals import element_tables, place_labels


def test_labels_do_not_cover_each_other():
    points = np.array([[0.5, 0.5], [0.51, 0.5], [0.52, 0.5], [0.2, 0.8]])
    placed = dict(place_labels(points, ["CaMgF3", "CaMgO3", "KMgF3", "LiF"]))
    assert 3 in placed and len(placed) < 4


def test_element_ratio_is_logarithmic():
    training, generated = Distributions(crystals=10), Distributions(crystals=20)
    training.elements[[11, 17]], generated.elements[[11, 17]] = 2, 16
    ratio = element_tables(training, generated)["ratio"].data[1].z
    assert np.unique(ratio[np.isfinite(ratio)]) == pytest.approx([2.0])
