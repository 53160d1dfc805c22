"""Energies above the convex hull of known compounds, for many crystals at once.

The hull of a chemical system is a convex function of the composition: the largest of the planes through its facets. So
a system's facets are found once (Qhull), and every crystal in it costs one matrix product. All energies, of the known
compounds and of the crystals, must be on one scale: one code's, with one scheme of corrections.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from sluice.crystals import Crystals

MAX_Z = 118
FLAT = 1e-6  # facets steeper than this stand on the border of the composition space


def element_fractions(crystals: Crystals) -> NDArray[np.float64]:
    """(n, 119) share of each atomic number in the atoms of n crystals."""
    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    counts = np.zeros((len(crystals), MAX_Z + 1))
    np.add.at(counts, (owner, crystals.numbers), 1.0)
    return counts / np.maximum(1, crystals.n_atoms)[:, None]


class Hull:
    """Known compounds and the hulls of the chemical systems that were asked for.

    Args:
        fractions: (m, 119) share of each atomic number in the known compounds.
        energies: (m,) their energies in eV/atom, elements included; NaN rows are left out.
    """

    def __init__(self, fractions: NDArray[np.float64], energies: NDArray[np.float64]) -> None:
        known = np.isfinite(energies)
        self.fractions, self.energies = fractions[known], np.asarray(energies, np.float64)[known]
        self._present = self.fractions > 0
        self._planes: dict[tuple[int, ...], NDArray[np.float64] | None] = {}

    def distances(self, fractions: NDArray[np.float64], energies: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) energy above the hull of the known compounds in eV/atom.

        Negative for a crystal that would become a corner of the hull. NaN where the energy is missing or an element of
        the crystal has no known crystal of its own.

        Args:
            fractions: (n, 119) share of each atomic number.
            energies: (n,) eV/atom.
        """
        found = np.full(len(fractions), np.nan)
        systems = [tuple(np.flatnonzero(row).tolist()) for row in fractions]
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, system in enumerate(systems):
            rows_of.setdefault(system, []).append(row)
        for system, rows in rows_of.items():
            planes = self.planes(system)
            if planes is not None and system:
                shares = fractions[rows][:, list(system)]  # (k, d)
                found[rows] = np.asarray(energies)[rows] - (shares @ planes.T).max(axis=1)
        return found

    def planes(self, system: Sequence[int]) -> NDArray[np.float64] | None:
        """(f, d) chemical potentials in eV of the d elements on each of f facets; None if an element is not known.

        The hull's energy at shares x of the elements is the largest of the products x · potentials.
        """
        key = tuple(system)
        if key not in self._planes:
            self._planes[key] = self._find_planes(key)
        return self._planes[key]

    def _find_planes(self, system: tuple[int, ...]) -> NDArray[np.float64] | None:
        absent = np.setdiff1d(np.arange(MAX_Z + 1), system)
        members = np.flatnonzero(~self._present[:, absent].any(axis=1))
        shares, energies = self.fractions[members][:, list(system)], self.energies[members]
        pure = [np.flatnonzero(shares[:, i] == 1.0) for i in range(len(system))]
        if not all(len(rows) for rows in pure):
            return None
        zero = np.array([energies[rows].min() for rows in pure])  # (d,)
        formation = energies - shares @ zero
        corners = np.array([rows[energies[rows].argmin()] for rows in pure])
        below = np.setdiff1d(np.flatnonzero(formation < 0), corners)  # what lies above the elements is on no facet
        if len(system) == 1 or len(below) == 0:
            return zero[None]
        chosen = np.concatenate([corners, below])
        points = np.column_stack([shares[chosen, 1:], formation[chosen]])
        # A point above all others, so that the body has a volume; facets through it look up or sideways.
        top = np.append(np.full(len(system) - 1, 1 / len(system)), 1.0)
        equations = ConvexHull(np.vstack([points, top])).equations  # (f, d + 1): n · x + offset = 0, n outwards
        lower = equations[equations[:, -2] < -FLAT]
        slopes = -lower[:, :-2] / lower[:, [-2]]  # (f, d - 1)
        height = -lower[:, -1] / lower[:, -2]  # formation energy of the plane at the first element
        planes = np.column_stack([height, height[:, None] + slopes]) + zero
        unique: NDArray[np.float64] = np.unique(np.round(planes, 12), axis=0)
        return unique
