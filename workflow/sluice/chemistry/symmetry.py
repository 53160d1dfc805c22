"""Space groups of many crystals: spglib decides, and is asked once for crystals that differ only in size."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray

from sluice.crystals import Crystals

SHAPE_DECIMALS = 9  # of the cell vectors relative to the cube root of the cell's volume
MAX_KINDS = 100_000  # arrangements remembered at a time


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
    _known: dict[bytes, list[tuple[float, int]]] = field(default_factory=dict)

    def __call__(self, crystals: Crystals) -> NDArray[np.int16]:
        """(n,) international numbers; 0 where spglib finds none."""
        found = np.zeros(len(crystals), np.int16)
        scales = np.cbrt(crystals.volumes)
        with np.errstate(divide="ignore", invalid="ignore"):
            shapes = np.round(crystals.lattice / scales[:, None, None], SHAPE_DECIMALS) + 0.0
        for i in range(len(crystals)):
            part = crystals.atoms_of(i)
            numbers = crystals.numbers[part]
            order: dict[int, int] = {}
            kinds = bytes(order.setdefault(z, len(order)) for z in numbers.tolist())
            key = kinds + b"|" + shapes[i].tobytes() + crystals.frac_coords[part].tobytes()
            found[i] = self._find(key, float(scales[i]), crystals.lattice[i], crystals.frac_coords[part], numbers)
        return found

    def _find(self, key: bytes, scale: float, lattice: NDArray, frac: NDArray, numbers: NDArray) -> int:
        if key not in self._known and len(self._known) >= MAX_KINDS:
            self._known.clear()
        known = self._known.setdefault(key, [])
        smaller = [entry for entry in known if entry[0] <= scale]
        larger = [entry for entry in known if entry[0] >= scale]
        if smaller and larger:
            below, above = max(smaller), min(larger)
            if below[1] == above[1]:
                return below[1]
        group = space_group(lattice, frac, numbers, self.symprec)
        self.calls += 1
        known.append((scale, group))
        self._prune(known)
        return group

    @staticmethod
    def _prune(known: list[tuple[float, int]]) -> None:
        """Of a run of equal answers only its ends are needed."""
        known.sort()
        known[:] = [
            entry
            for i, entry in enumerate(known)
            if i in (0, len(known) - 1) or known[i - 1][1] != entry[1] or known[i + 1][1] != entry[1]
        ]
