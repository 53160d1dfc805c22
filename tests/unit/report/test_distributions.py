"""Lattice constants and element counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from report_campaign import half_heusler, perovskite

from sluice.crystals import Crystals
from sluice.report.distributions import Distributions, cubic_lattice_constants
from sluice.report.draw_structure import conventional_cell

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib


def test_lattice_constant_is_that_of_the_conventional_cell():
    cubic, primitive = perovskite("K", "Mg", "F", 3.99), half_heusler("Li", "Mg", "F", 5.5)
    bcc = Structure(Lattice([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]), ["Na"], [[0, 0, 0]])
    other = Structure(Lattice.from_parameters(2, 3, 4, 80, 95, 100), ["Na"], [[0, 0, 0]])
    found = cubic_lattice_constants(Crystals.from_structures([cubic, primitive, bcc, other]))
    assert found == pytest.approx([3.99, 5.5, 2.0, math.cbrt(other.volume)])
    assert conventional_cell(primitive).lattice.a == pytest.approx(5.5)


def test_elements_count_once_a_crystal():
    found = Distributions()
    crystals = Crystals.from_structures([perovskite("K", "Mg", "F", 4.0), perovskite("Na", "Mg", "F", 3.9)])
    found.add(crystals, np.array([221, 221]))
    assert found.crystals == 2 and found.space_groups == {221: 2}
    assert [found.elements[z] for z in (9, 12, 19, 11, 3)] == [2, 2, 1, 1, 0]
    assert found.lattice.sum() == 2
