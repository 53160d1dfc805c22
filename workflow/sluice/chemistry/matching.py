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


def fingerprints(crystals: Crystals) -> NDArray[np.uint64]:
    """(n, 2) 128-bit digests that are equal only for crystals equal but for size, orientation and order of atoms.

    Of atomic numbers, fractional coordinates to 1e-4 and the metric tensor of the cell scaled to unit volume, with the
    cell's handedness. Different digests prove nothing: cells can be chosen in many ways.
    """
    found = np.zeros((len(crystals), 2), np.uint64)
    scaled = crystals.lattice / np.cbrt(crystals.volumes)[:, None, None]
    metric = np.round(scaled @ scaled.transpose(0, 2, 1), DECIMALS) + 0.0
    right_handed = np.linalg.det(crystals.lattice) > 0 if len(crystals) else np.zeros(0, bool)
    for rows, atoms in by_atom_count(crystals):
        grid = np.round(np.mod(crystals.frac_coords[atoms], 1.0) * _GRID).astype(np.int64) % _GRID
        codes = crystals.numbers[atoms].astype(np.int64)
        for axis in range(3):
            codes = codes * _GRID + grid[:, :, axis]
        codes.sort(axis=1)
        for row, code in zip(rows.tolist(), codes, strict=True):
            digest = hashlib.blake2b(code.tobytes(), digest_size=16)
            digest.update(metric[row].tobytes())
            digest.update(b"+" if right_handed[row] else b"-")
            found[row] = np.frombuffer(digest.digest(), np.uint64)
    return found


def formula_keys(crystals: Crystals) -> NDArray[np.uint64]:
    """(n,) 64-bit digests of the reduced composition."""
    found = np.zeros(len(crystals), np.uint64)
    for rows, atoms in by_atom_count(crystals):
        numbers = np.sort(crystals.numbers[atoms], axis=1)
        kinds, which = np.unique(numbers, axis=0, return_inverse=True)
        keys = np.array([_composition_key(kind) for kind in kinds], np.uint64)
        found[rows] = keys[which.reshape(-1)]
    return found


def _composition_key(numbers: NDArray[np.uint8]) -> int:
    elements, counts = np.unique(numbers, return_counts=True)
    reduced = counts // np.gcd.reduce(counts) if len(counts) else counts
    text = ",".join(f"{z}:{c}" for z, c in zip(elements.tolist(), reduced.tolist(), strict=True))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


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
