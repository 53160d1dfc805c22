"""Space groups of many crystals: spglib decides, and is asked once for crystals that differ only in size."""

from __future__ import annotations

import warnings
from bisect import bisect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray

from sluice.chemistry.geometry import by_atom_count
from sluice.crystals import Crystals

SHAPE_DECIMALS = 9  # of the cell vectors relative to the cube root of the cell's volume
MAX_KINDS = 100_000  # arrangements remembered at a time
MARGIN = 1.5  # how much beyond the sizes at hand spglib is asked first, so that later ones lie between


def space_group(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], numbers: NDArray, symprec: float
) -> int:
    """International number that spglib finds within ``symprec`` Å; 0 if it finds none (overlapping atoms)."""
    cell: Any = (lattice, frac_coords, numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spglib warns, by version, of the way it reports what it cannot do
        try:
            found = spglib.get_symmetry_dataset(cell, symprec=symprec)
        except (spglib.error.SpglibError, TypeError, ValueError):
            return 0
    return 0 if found is None else int(found.number)


@dataclass
class _Known:
    """What spglib said about one arrangement: groups by size, sizes rising."""

    scales: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def between(self, scales: NDArray[np.float64]) -> NDArray[np.int16]:
        """(k,) group of sizes that lie between (or on) two equal answers, −1 for the others."""
        if not self.scales:
            return np.full(len(scales), -1, np.int16)
        groups = np.array(self.groups)
        above = np.searchsorted(self.scales, scales, side="left")
        below = np.searchsorted(self.scales, scales, side="right") - 1
        inside = (below >= 0) & (above < len(groups))
        lower, upper = groups[np.maximum(below, 0)], groups[np.minimum(above, len(groups) - 1)]
        return np.where(inside & (lower == upper), lower, -1).astype(np.int16)

    def add(self, scale: float, group: int) -> None:
        place = bisect(self.scales, scale)
        self.scales.insert(place, scale)
        self.groups.insert(place, group)
        # Of a run of equal answers only its ends are needed.
        keep = [
            i for i in range(len(self.scales))
            if i in (0, len(self.scales) - 1) or not self.groups[i - 1] == self.groups[i] == self.groups[i + 1]
        ]  # fmt: skip
        self.scales, self.groups = [self.scales[i] for i in keep], [self.groups[i] for i in keep]


@dataclass
class SpaceGroupFinder:
    """Finds space groups, remembering arrangements that differ only in length scale and in which elements sit where.

    Scaling a crystal by s within ``symprec`` is the same as leaving it and dividing ``symprec`` by s, and a larger
    tolerance only admits more symmetry. So where spglib gave the same group for a smaller and a larger copy of one
    arrangement, every size between has it too; any other size is given to spglib.

    Attributes:
        symprec: distance tolerance in Å.
        calls: how often spglib was asked.
    """

    symprec: float
    calls: int = 0
    _known: dict[bytes, _Known] = field(default_factory=dict)

    def __call__(self, crystals: Crystals) -> NDArray[np.int16]:
        """(n,) international numbers; 0 where spglib finds none."""
        found = np.zeros(len(crystals), np.int16)
        scales = np.cbrt(crystals.volumes)
        sound = np.isfinite(scales) & (scales > 0)
        for i in np.flatnonzero(~sound):
            found[i] = self._ask(crystals, int(i), 1.0)
        for all_rows, all_atoms in by_atom_count(crystals):
            rows, atoms = all_rows[sound[all_rows]], all_atoms[sound[all_rows]]
            keys = arrangements(crystals.lattice[rows], crystals.frac_coords[atoms], crystals.numbers[atoms])
            kinds, inverse = np.unique(keys, return_inverse=True)
            order = np.argsort(inverse, kind="stable")
            parts = np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1) if len(kinds) else []
            for kind, part in zip(kinds, parts, strict=True):
                found[rows[part]] = self._find(kind.tobytes(), crystals, rows[part], scales[rows[part]])
        return found

    def _find(
        self, key: bytes, crystals: Crystals, rows: NDArray[np.int64], scales: NDArray[np.float64]
    ) -> NDArray[np.int16]:
        """(k,) groups of crystals of one arrangement."""
        if key not in self._known and len(self._known) >= MAX_KINDS:
            self._known.clear()
        known = self._known.setdefault(key, _Known())
        found = known.between(scales)
        margins = [1 / MARGIN, MARGIN]
        while (open_ := np.flatnonzero(found < 0)).size:
            ends = {int(open_[scales[open_].argmin()]), int(open_[scales[open_].argmax()])}
            if margins and len(open_) > 1:
                low, high = scales[open_].min() * margins[0], scales[open_].max() * margins[1]
                asked = [(int(open_[0]), low), (int(open_[0]), high)]
                margins = []
            else:
                asked = [(row, float(scales[row])) for row in ends]
            for row, scale in asked:
                known.add(scale, self._ask(crystals, int(rows[row]), scale / float(scales[row])))
            found = np.where(found < 0, known.between(scales), found)
        return found

    def _ask(self, crystals: Crystals, i: int, stretch: float) -> int:
        self.calls += 1
        part = crystals.atoms_of(i)
        lattice = crystals.lattice[i] if stretch == 1.0 else crystals.lattice[i] * stretch
        return space_group(lattice, crystals.frac_coords[part], crystals.numbers[part], self.symprec)


def arrangements(lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], numbers: NDArray) -> NDArray[np.void]:
    """(g,) bytes that are equal where crystals differ only in size and in which elements sit where.

    Args:
        lattice: (g, 3, 3) cell vectors.
        frac_coords: (g, k, 3) fractional coordinates.
        numbers: (g, k) atomic numbers.
    """
    g, k = numbers.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        shapes = np.round(lattice / np.cbrt(np.abs(np.linalg.det(lattice)))[:, None, None], SHAPE_DECIMALS) + 0.0
    row = np.zeros((g, 9 + 4 * k))
    row[:, :9] = shapes.reshape(g, 9)
    row[:, 9 : 9 + 3 * k] = frac_coords.reshape(g, 3 * k)
    row[:, 9 + 3 * k :] = (numbers[:, :, None] == numbers[:, None, :]).argmax(axis=2)  # first atom of the same element
    return row.view(f"V{row.itemsize * row.shape[1]}").reshape(g)
