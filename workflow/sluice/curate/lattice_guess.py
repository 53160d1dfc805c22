"""A first lattice constant from radii, close enough for an equation of state to find the minimum."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from pymatgen.core import Element

from sluice.curate.prototypes import Prototype, primitive_cell

POWER = 6.0
# ASSUME: contacts are 1.18 times the sixth-power mean of what sums of covalent radii (Cordero et al., Dalton Trans.
# 2008, 2832) ask for. Over 250 of these crystals CHGNet's own lattice constants scatter by 10 % around it.
SCALE = 1.18


def guess_lattice_constants(prototype: Prototype, decorations: list[tuple[str, ...]]) -> NDArray[np.float64]:
    """(n,) conventional lattice constants in Å at which neighbouring atoms roughly touch.

    Each pair of sites asks for (r_i + r_j) / d_ij with d_ij its shortest distance for a lattice constant of 1; the
    power mean lets the tightest contacts decide.
    """
    contacts = primitive_cell(prototype).contacts
    sites = len(contacts)
    pairs = [*combinations(range(sites), 2), *((i, i) for i in range(sites))]
    radii = np.array([[covalent_radii[Element(e).Z] for e in chosen] for chosen in decorations]).reshape(-1, sites)
    asked = np.stack([(radii[:, i] + radii[:, j]) / contacts[i, j] for i, j in pairs], axis=1)
    return SCALE * (asked**POWER).mean(axis=1) ** (1 / POWER)
