"""Figures of crystals."""

from __future__ import annotations

import numpy as np
import pytest

from sluice.report.distributions import Distributions
from sluice.report.figures_crystals import dft_parity, element_tables, place_labels
from sluice.report.validated import read_validated


def test_labels_do_not_cover_each_other():
    points = np.array([[0.5, 0.5], [0.51, 0.5], [0.52, 0.5], [0.2, 0.8]])
    placed = dict(place_labels(points, ["CaMgF3", "CaMgO3", "KMgF3", "LiF"]))
    assert 3 in placed and len(placed) < 4


def test_element_ratio_is_logarithmic():
    training, generated = Distributions(crystals=10), Distributions(crystals=20)
    training.elements[[11, 17]], generated.elements[[11, 17]] = 2, 16
    ratio = element_tables(training, generated)["ratio"].data[1].z
    assert np.unique(ratio[np.isfinite(ratio)]) == pytest.approx([2.0])


def test_raw_and_corrected_energies_are_never_in_one_panel(campaign):
    crystals = read_validated({1: campaign.folder / "round_1/validate/validated.h5"})
    found = dft_parity(crystals)
    raw, corrected = found["raw"][0].data[1], found["corrected"][0].data[1]
    assert list(raw.x) == [c.row["formation_energy_ev_per_atom"] for c in crystals]
    known = [c.row["formation_energy_corrected_ev_per_atom"] for c in crystals]
    assert list(corrected.x) == [value for value in known if value is not None]
    assert len(corrected.x) < len(raw.x)
    assert "mean −0.020, mean absolute 0.020 eV/atom" in found["corrected"][1]  # as the stores were written
    assert dft_parity([]) == {}
