"""When two crystals are the same: exact fingerprints for the easy cases, pymatgen's StructureMatcher for the rest."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from pymatgen.core.structure_matcher import StructureMatcher

from sluice.chemistry.geometry import by_atom_count
from sluice.config import DuplicateSettings
from sluice.crystals import Crystals

DECIMALS = 4  # of fractional coordinates and of the scaled metric in a fingerprint
_GRID = 10**DECIMALS
MIN_GRID_STEP = 0.3  # Å, more than the 0.25 Å within which pymatgen looks for smaller cells
ROWS_AT_A_TIME = 10_000


def fingerprints(crystals: Crystals) -> NDArray[np.uint64]:
    """(n, 2) 128-bit digests that are equal only for crystals equal but for size, orientation and order of atoms.

    Of atomic numbers, fractional coordinates to 1e-4 and the metric tensor of the cell scaled to unit volume, with the
    cell's handedness. Different digests prove nothing: cells can be chosen in many ways.
    """
    return _digests(crystals, crystals.numbers)


def patterns(crystals: Crystals) -> NDArray[np.uint64]:
    """(n, 2) fingerprints that do not say which elements there are, only their order by atomic number; 0 off the grid.

    Two pairs of crystals with the same patterns, each pair of one composition, get the same answer from
    StructureMatcher, which compares elements for equality only and scales volumes. It looks for smaller cells within
    0.25 Å, though; so only crystals count whose atoms sit exactly on quarters of their cell, points of which are
    farther apart than that, and for which size therefore makes no difference. The others have the pattern (0, 0).
    """
    labels = np.zeros(len(crystals.numbers), np.int64)
    on_grid = np.zeros(len(crystals), bool)
    for rows, atoms in by_atom_count(crystals):
        if atoms.shape[1] == 0:
            continue
        numbers = crystals.numbers[atoms]
        labels[atoms] = (np.sort(numbers, axis=1)[:, None, :] < numbers[:, :, None]).sum(axis=2)
        quarters = crystals.frac_coords[atoms] * 4
        exact = np.abs(quarters - np.rint(quarters)).max(axis=(1, 2)) < 1e-6
        with np.errstate(divide="ignore", invalid="ignore"):
            areas = np.linalg.norm(
                np.cross(crystals.lattice[rows][:, [1, 2, 0]], crystals.lattice[rows][:, [2, 0, 1]]), axis=2
            )
            heights = crystals.volumes[rows] / areas.max(axis=1)  # the least distance of two planes of the cell
        on_grid[rows] = exact & (heights / 4 > MIN_GRID_STEP)
    found = np.zeros((len(crystals), 2), np.uint64)
    if on_grid.any():
        keep = np.repeat(on_grid, crystals.n_atoms)
        found[on_grid] = _digests(crystals[on_grid], labels[keep])
    return found


def _digests(crystals: Crystals, labels: NDArray[np.integer]) -> NDArray[np.uint64]:
    """(n, 2) digests of labelled positions (one label an atom) and scaled metric."""
    found = np.zeros((len(crystals), 2), np.uint64)
    scaled = crystals.lattice / np.cbrt(crystals.volumes)[:, None, None]
    metric = np.round(scaled @ scaled.transpose(0, 2, 1), DECIMALS) + 0.0
    right_handed = np.linalg.det(crystals.lattice) > 0 if len(crystals) else np.zeros(0, bool)
    for rows, atoms in by_atom_count(crystals):
        grid = np.round(np.mod(crystals.frac_coords[atoms], 1.0) * _GRID).astype(np.int64) % _GRID
        codes = labels[atoms].astype(np.int64)
        for axis in range(3):
            codes = codes * _GRID + grid[:, :, axis]
        codes.sort(axis=1)
        table = np.concatenate([codes, metric[rows].reshape(-1, 9).view(np.int64), right_handed[rows, None]], axis=1)
        digests = [hashlib.blake2b(row, digest_size=16).digest() for row in np.ascontiguousarray(table)]
        found[rows] = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    return found


def formula_keys(crystals: Crystals) -> NDArray[np.uint64]:
    """(n,) 64-bit keys of the reduced composition."""
    found = np.zeros(len(crystals), np.uint64)
    weights = np.random.default_rng(0).integers(1, 2**63, 256, dtype=np.uint64) | np.uint64(1)
    for all_rows, all_atoms in by_atom_count(crystals):
        for start in range(0, len(all_rows), ROWS_AT_A_TIME):
            rows, atoms = all_rows[start : start + ROWS_AT_A_TIME], all_atoms[start : start + ROWS_AT_A_TIME]
            counts = np.zeros((len(rows), 256), np.int64)
            np.add.at(counts, (np.arange(len(rows))[:, None], crystals.numbers[atoms]), 1)
            divisors = np.maximum(1, np.gcd.reduce(counts, axis=1))
            found[rows] = (counts // divisors[:, None]).astype(np.uint64) @ weights
    return found


class CrystalMatcher:
    """StructureMatcher (scaled to equal volume, primitive cells) with every structure reduced only once."""

    def __init__(self, settings: DuplicateSettings) -> None:
        self.calls = 0
        self._matcher = StructureMatcher(
            ltol=settings.length_tolerance, stol=settings.site_tolerance, angle_tol=settings.angle_tolerance
        )

    def reduce(self, structure: Structure) -> Structure:
        """The primitive, Niggli-reduced cell that ``same`` takes."""
        reduced: Structure = self._matcher._get_reduced_structure(structure)
        return reduced

    def same(self, first: Structure, second: Structure) -> bool:
        """Whether two reduced structures are the same crystal."""
        self.calls += 1
        return bool(self._matcher.fit(first, second, skip_structure_reduction=True))
