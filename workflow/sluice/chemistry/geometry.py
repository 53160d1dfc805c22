"""Distances and densities of many crystals at once, without an object per crystal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase.data import atomic_masses, covalent_radii
from numpy.typing import NDArray

from sluice.crystals import Crystals

GRAMS_PER_CM3 = 1.66053906660  # of one dalton per Å³
DISTANCES_AT_A_TIME = 2_000_000
MIN_VOLUME = 1e-3  # Å³; below this a cell counts as flat
MAX_IMAGES = 6  # cells looked at in each direction; only cells that are far from reduced need more than 1


def by_atom_count(crystals: Crystals) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Crystals of equal atom count together.

    Yields:
        rows: (g,) indices of the crystals with k atoms.
        atoms: (g, k) indices of their atoms.
    """
    counts = crystals.n_atoms
    for k in np.unique(counts):
        rows = np.flatnonzero(counts == k)
        yield rows, crystals.atom_offsets[rows][:, None] + np.arange(k)


def densities(crystals: Crystals) -> NDArray[np.float64]:
    """(n,) densities in g/cm³; infinite for a flat cell."""
    masses = np.zeros(len(crystals))
    for rows, atoms in by_atom_count(crystals):
        masses[rows] = atomic_masses[crystals.numbers[atoms]].sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return GRAMS_PER_CM3 * masses / crystals.volumes


def min_distance_ratios(crystals: Crystals) -> NDArray[np.float64]:
    """(n,) least distance of two atoms over the sum of their covalent radii, periodic images included.

    An atom's own images count, so a crystal of one atom has a ratio. Radii: Cordero et al., Dalton Trans. 2008, 2832.
    NaN for a crystal that is not finite, has no atoms or a flat cell.
    """
    ratios = np.full(len(crystals), np.nan)
    usable = np.asarray(np.isfinite(crystals.lattice).all(axis=(1, 2)) & (crystals.n_atoms > 0))
    usable[usable] = np.abs(np.linalg.det(crystals.lattice[usable])) > MIN_VOLUME
    for all_rows, all_atoms in by_atom_count(crystals):
        k = all_atoms.shape[1]
        good = usable[all_rows] & np.isfinite(crystals.frac_coords[all_atoms]).all(axis=(1, 2))
        rows, atoms = all_rows[good], all_atoms[good]
        size = max(1, DISTANCES_AT_A_TIME // (27 * max(1, k * (k + 1) // 2)))
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            ratios[rows[part]] = _ratios(
                crystals.lattice[rows[part]], crystals.frac_coords[atoms[part]], crystals.numbers[atoms[part]]
            )
    return ratios


def _ratios(lattice: NDArray, frac: NDArray, numbers: NDArray) -> NDArray[np.float64]:
    """Least ratios of g crystals: lattice (g, 3, 3), frac (g, k, 3), numbers (g, k)."""
    first, second = np.triu_indices(frac.shape[1])
    difference = frac[:, second] - frac[:, first]
    difference -= np.round(difference)  # (g, pairs, 3), each within half a cell
    radii = covalent_radii[numbers]
    sums = radii[:, first] + radii[:, second]  # (g, pairs)
    same = first == second
    found = _least(lattice, difference, sums, same, images=1)
    # A pair closer than d lies at most d / (height of the cell) + 1/2 cells away: look further where that exceeds 1.
    heights = 1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=1)  # (g, 3)
    needed = np.floor((found * sums.max(axis=1))[:, None] / heights + 0.5).max(axis=1)
    for images in np.unique(np.minimum(needed[needed > 1], MAX_IMAGES)).astype(int):
        wide = np.flatnonzero(np.minimum(needed, MAX_IMAGES) == images)
        step = max(1, DISTANCES_AT_A_TIME // (len(first) * (2 * images + 1) ** 3))
        for start in range(0, len(wide), step):
            part = wide[start : start + step]
            found[part] = _least(lattice[part], difference[part], sums[part], same, images=images)
    return found


def _least(lattice: NDArray, difference: NDArray, sums: NDArray, same: NDArray, *, images: int) -> NDArray[np.float64]:
    shifts = np.stack(np.meshgrid(*[np.arange(-images, images + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    base = difference @ lattice  # (g, pairs, 3) Å
    moved = shifts @ lattice  # (g, images, 3) Å
    # |b + s|² = |b|² + 2 b·s + |s|²: one matrix product instead of an array of vectors.
    squared = 2.0 * base @ moved.transpose(0, 2, 1)
    squared += (base**2).sum(axis=-1)[:, :, None]
    squared += (moved**2).sum(axis=-1)[:, None, :]
    squared[:, same, len(shifts) // 2] = np.inf  # an atom and itself
    nearest = np.sqrt(np.maximum(squared.min(axis=-1), 0.0))  # (g, pairs)
    least: NDArray[np.float64] = (nearest / sums).min(axis=-1)
    return least
