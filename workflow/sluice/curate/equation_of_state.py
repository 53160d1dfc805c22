"""The lattice constant of lowest energy of many crystals at once, from energies at a few strains.

Third-order Birch–Murnaghan (F. Birch, Phys. Rev. 71, 809, 1947): the energy is a cubic polynomial in V^(-2/3), so a
linear least-squares fit of all crystals at once finds the minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluice.crystals import Crystals

POINTS = 5  # that a fit uses
MAX_EXTENSIONS = 4  # times two further points, each a step apart, beyond the end where the energy still falls
NO_ENERGY = "no energy"
NO_MINIMUM = "no energy minimum"

Energies = Callable[[Crystals], NDArray[np.float64]]


@dataclass(frozen=True)
class Minima:
    """Where the equation of state of each crystal has its minimum.

    Attributes:
        strain: (n,) linear strain of the minimum relative to the crystal given; NaN without one.
        energy: (n,) energy of the fit there, eV/atom.
        reason: "" or why there is no minimum (a category).
        detail: particulars of it.
    """

    strain: NDArray[np.float64]
    energy: NDArray[np.float64]
    reason: list[str]
    detail: list[str]


def strained(crystals: Crystals, strains: NDArray[np.float64]) -> Crystals:
    """Scale the cell of crystal i by 1 + strains[i]; fractional coordinates stay."""
    return Crystals(
        crystals.lattice * (1.0 + strains)[:, None, None],
        crystals.atom_offsets,
        crystals.numbers,
        crystals.frac_coords,
    )


def fit_minima(
    strains: NDArray[np.float64], energies: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minimum of a Birch–Murnaghan curve through each row of points.

    Args:
        strains: (n, p) linear strains, rising along each row; p is at least 4.
        energies: (n, p) energies in eV/atom.

    Returns:
        (n,) strains and energies of the minima; NaN where the fit has none between its outermost points.
    """
    x = (1.0 + strains) ** -2.0  # V^(-2/3) in units of that without strain
    centre, width = x.mean(axis=1, keepdims=True), np.ptp(x, axis=1)[:, None] / 2
    u = (x - centre) / width
    c0, c1, c2, c3 = np.einsum("nij,nj->in", np.linalg.pinv(np.stack([u**k for k in range(4)], axis=2)), energies)
    with np.errstate(divide="ignore", invalid="ignore"):
        # The root with positive curvature, in the form that also holds as c3 goes to 0.
        root = np.sqrt(c2**2 - 3 * c1 * c3)
        at = -c1 / (c2 + root)
        energy = c0 + at * (c1 + at * (c2 + at * c3))
        strain = (centre[:, 0] + width[:, 0] * at) ** -0.5 - 1.0
        inside = (strain >= strains.min(axis=1)) & (strain <= strains.max(axis=1)) & (root > 0)
    return np.where(inside, strain, np.nan), np.where(inside, energy, np.nan)


def find_minima(crystals: Crystals, strains: tuple[float, ...], energies_of: Energies) -> Minima:
    """Scan every crystal over the strains, go on downhill where the minimum lies outside, and fit.

    Args:
        crystals: n crystals near their minimum.
        strains: linear strains to begin with.
        energies_of: (k,) energies in eV/atom of k crystals; NaN where there is none.
    """
    n = len(crystals)
    grid, first, last = _grid(strains)
    energies = np.full((n, len(grid)), np.nan)
    lowest, highest = np.full(n, first), np.full(n, last)  # ends of the scanned part of the grid
    todo = np.tile(np.arange(first, last + 1), (n, 1))
    rows = np.arange(n)
    for extension in range(MAX_EXTENSIONS + 1):
        owner, column = np.repeat(rows, todo.shape[1]), todo.reshape(-1)
        energies[owner, column] = energies_of(strained(crystals[owner], grid[column]))
        if extension == MAX_EXTENSIONS:
            break
        down, up = _falls_beyond(energies, lowest, highest)
        down, up = down & (lowest >= 2), up & (highest <= len(grid) - 3)
        rows = np.flatnonzero(down | up)
        if len(rows) == 0:
            break
        start = np.where(down[rows], lowest[rows] - 2, highest[rows] + 1)
        todo = start[:, None] + np.arange(2)
        lowest[down] -= 2
        highest[up & ~down] += 2
    return _fit(grid, energies, lowest, highest)


def _grid(strains: tuple[float, ...]) -> tuple[NDArray[np.float64], int, int]:
    given = np.sort(np.asarray(strains, np.float64))
    step = float(np.diff(given).mean())
    below = given[0] - step * np.arange(2 * MAX_EXTENSIONS, 0, -1)
    above = given[-1] + step * np.arange(1, 2 * MAX_EXTENSIONS + 1)
    below = below[below > -0.7]
    return np.concatenate([below, given, above]), len(below), len(below) + len(given) - 1


def _falls_beyond(
    energies: NDArray[np.float64], lowest: NDArray[np.int64], highest: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the lowest energy of each row lies at its compressed or at its expanded end."""
    best = np.argmin(np.where(np.isfinite(energies), energies, np.inf), axis=1)
    some = np.isfinite(energies).any(axis=1)
    return some & (best == lowest), some & (best == highest)


def _fit(
    grid: NDArray[np.float64], energies: NDArray[np.float64], lowest: NDArray[np.int64], highest: NDArray[np.int64]
) -> Minima:
    n = len(energies)
    strain, energy = np.full(n, np.nan), np.full(n, np.nan)
    best = np.argmin(np.where(np.isfinite(energies), energies, np.inf), axis=1)
    points = np.minimum(POINTS, highest - lowest + 1)
    start = np.clip(best - points // 2, lowest, highest - points + 1)
    for p in np.unique(points):
        rows = np.flatnonzero(points == p)
        window = start[rows][:, None] + np.arange(p)
        values = energies[rows[:, None], window]
        whole = np.isfinite(values).all(axis=1)
        rows, window, values = rows[whole], window[whole], values[whole]
        if len(rows):
            strain[rows], energy[rows] = fit_minima(grid[window], values)
    reason, detail = [""] * n, [""] * n
    for i in np.flatnonzero(~np.isfinite(strain)):
        scanned = np.isfinite(energies[i, lowest[i] : highest[i] + 1])
        reason[i] = NO_MINIMUM if scanned.all() else NO_ENERGY
        detail[i] = f"at strains from {grid[lowest[i]]:+.2f} to {grid[highest[i]]:+.2f}"
    return Minima(strain, energy, reason, detail)
