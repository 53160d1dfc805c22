"""Crystals as drawings."""

from __future__ import annotations

import numpy as np
import pytest
from report_campaign import draw_crystals, half_heusler, perovskite

from sluice.report.draw_structure import draw_structure
from sluice.report.page import script_json

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib


def test_perovskite_is_drawn_with_octahedra():
    drawn = draw_structure(perovskite("K", "Mg", "F", 4.0))
    symbols = [element["symbol"] for element in drawn["elements"]]
    kinds = [symbols[atom[0]] for atom in drawn["atoms"]]
    assert symbols == ["K", "Mg", "F"]
    assert (kinds.count("K"), kinds.count("Mg"), kinds.count("F")) == (1, 8, 36)
    assert len(drawn["faces"]) == 8 * 8
    assert len(drawn["bonds"]) == 8 * 6
    lengths = [np.linalg.norm(np.subtract(drawn["atoms"][i][1:], drawn["atoms"][j][1:])) for i, j in drawn["bonds"]]
    assert lengths == pytest.approx([2.0] * 48, abs=2e-3)


def test_primitive_cell_is_drawn_as_the_conventional_one():
    drawn = draw_structure(half_heusler("Li", "Mg", "F", 5.6))
    assert np.allclose(np.array(drawn["cell"]), 5.6 * np.eye(3), atol=1e-3)
    assert all(0 <= i < len(drawn["atoms"]) and i < j for i, j in drawn["bonds"])


def test_drawings_are_small():
    crystals, _ = draw_crystals(20, seed=4)
    sizes = [len(script_json(draw_structure(structure))) for structure in crystals.structures()]
    assert max(sizes) < 8000
