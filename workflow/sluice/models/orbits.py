"""Orbits of the cubic space groups on the quarter grid, and crystals built from a few of them.

Coordinates that are multiples of 1/4 are the 64 points of a 4 × 4 × 4 grid in the conventional cell; an orbit is a set
of such points, so everything about a space group fits into small tables that are made once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray

from sluice.crystals import Crystals

GRID = 4
POINTS = GRID**3
# Hall numbers of the standard settings (International Tables A; spglib's database).
HALL_NUMBERS = {216: 512, 221: 517, 225: 523}
# Rows: the primitive standard cell's vectors in units of the conventional ones (spglib's convention).
PRIMITIVE = {
    "P": np.eye(3),
    "F": np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]),
}
SYMPREC = 0.1  # Å, as CubicGAN's check
GRID_TOLERANCE = 0.02  # fraction of the cell; ASSUME: a coordinate so near to a multiple of 1/4 lies on the grid


@dataclass(frozen=True)
class SpaceGroup:
    """The orbits of one space group on the grid.

    Attributes:
        number: international number.
        orbit_of: (64,) orbit of each grid point; the point (i, j, k)/4 has index 16 i + 4 j + k.
        representative: (o,) smallest grid point of each orbit.
        starts: (o + 1,) where each orbit's rows begin in ``frac_coords``.
        frac_coords: (r, 3) coordinates of the orbits' atoms in the primitive standard cell.
        primitive: (3, 3) primitive vectors in units of the conventional lattice constant.
        equivalents: (q, o) orbit that each orbit becomes under the shifts and inversions that leave the space group as
            it is (its normalizer): q descriptions of one crystal.
    """

    number: int
    orbit_of: NDArray[np.int64]
    representative: NDArray[np.int64]
    starts: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    primitive: NDArray[np.float64]
    equivalents: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(o,) atoms of each orbit in the primitive cell."""
        return np.diff(self.starts)


def grid_points() -> NDArray[np.int64]:
    """(64, 3) grid points in units of 1/4."""
    return np.stack(np.unravel_index(np.arange(POINTS), (GRID, GRID, GRID)), axis=1)


def grid_index(coords: NDArray[np.int64]) -> NDArray[np.int64]:
    """(…) index of grid points given as (…, 3) multiples of 1/4, wrapped into the cell."""
    wrapped = np.mod(coords, GRID)
    return (wrapped[..., 0] * GRID + wrapped[..., 1]) * GRID + wrapped[..., 2]


def _quietly(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call spglib, which warns, by version, of the way it reports what it cannot do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return function(*arguments, **named)


@cache
def space_group(number: int) -> SpaceGroup:
    """The table of one of 216, 221, 225."""
    hall = HALL_NUMBERS[number]
    kind = _quietly(spglib.get_spacegroup_type, hall)
    if kind is None or kind.number != number:
        raise RuntimeError(f"spglib's Hall number {hall} is not space group {number}")
    centring = kind.international_short[0]
    operations = _quietly(spglib.get_symmetry_from_database, hall)
    if operations is None:
        raise RuntimeError(f"spglib's database lacks Hall number {hall}")
    points = grid_points()
    shifts = np.rint(operations["translations"] * GRID).astype(np.int64)  # (S, 3)
    rotations = operations["rotations"].astype(np.int64)  # (S, 3, 3)
    images = (rotations @ points[:, None, :, None])[..., 0] + shifts  # (64, S, 3)
    smallest = grid_index(images).min(axis=1)  # (64,)
    representative, orbit_of = np.unique(smallest, return_inverse=True)
    primitive = PRIMITIVE[centring]
    rows, starts = [], [0]
    for orbit in range(len(representative)):
        fractions = np.mod(points[orbit_of == orbit] / GRID @ np.linalg.inv(primitive), 1.0)
        rows.append(np.unique(np.round(fractions, 10) % 1.0, axis=0))
        starts.append(starts[-1] + len(rows[-1]))
    equivalents = _equivalents(rotations, shifts, orbit_of, representative)
    return SpaceGroup(number, orbit_of, representative, np.array(starts), np.concatenate(rows), primitive, equivalents)


def _equivalents(
    rotations: NDArray[np.int64], shifts: NDArray[np.int64], orbit_of: NDArray[np.int64], smallest: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(q, o) permutations of the orbits by shifts t on the grid, perhaps with inversion, that map the group to itself.

    Conjugating the operation (R, s) by x → ±x + t gives (R, ±s + t − R t), which must be in the group again.
    """
    points = grid_points()
    operations = {(r.tobytes(), *s) for r, s in zip(rotations, np.mod(shifts, GRID).tolist(), strict=True)}
    found = []
    for shift in points:
        for sign in (1, -1):
            moved = np.mod(sign * shifts + shift - rotations @ shift, GRID).tolist()
            if all((r.tobytes(), *s) in operations for r, s in zip(rotations, moved, strict=True)):
                found.append(orbit_of[grid_index(sign * points[smallest] + shift)])
    return np.unique(found, axis=0)


def canonical_points(numbers: NDArray[np.int64], points: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, S) the one of all equivalent descriptions of each crystal whose orbits come first, as grid indices.

    On-grid crystals of one space group and composition are the same, but for their size, if and only if these agree.

    Args:
        numbers: (n,) space groups.
        points: (n, S) grid index of each base site.
    """
    found = np.zeros_like(points)
    for number in np.unique(numbers):
        group, chosen = space_group(int(number)), numbers == number
        orbits = group.equivalents[:, group.orbit_of[points[chosen]]]  # (q, k, S)
        weights = len(group.representative) ** np.arange(orbits.shape[2])[::-1]
        first = (orbits @ weights).argmin(axis=0)
        found[chosen] = group.representative[orbits[first, np.arange(orbits.shape[1])]]
    return found


def build_crystals(
    numbers: NDArray[np.int64], points: NDArray[np.int64], elements: NDArray[np.int64], lengths: NDArray[np.float64]
) -> Crystals:
    """Expand base sites to full crystals in primitive standard cells.

    Args:
        numbers: (n,) space groups.
        points: (n, S) grid index of each base site; those of one crystal must lie in different orbits.
        elements: (n, S) atomic numbers of the base sites.
        lengths: (n,) conventional lattice constants in Å.
    """
    n = len(numbers)
    lattice = np.zeros((n, 3, 3))
    first = np.zeros(points.shape, dtype=np.int64)  # (n, S) row in the joint table of coordinates
    size = np.zeros(points.shape, dtype=np.int64)
    tables, offset = [], 0
    for number in np.unique(numbers):
        group, chosen = space_group(int(number)), numbers == number
        orbits = group.orbit_of[points[chosen]]
        first[chosen] = group.starts[orbits] + offset
        size[chosen] = group.sizes[orbits]
        lattice[chosen] = group.primitive * lengths[chosen, None, None]
        tables.append(group.frac_coords)
        offset += len(group.frac_coords)
    sizes, firsts = size.ravel(), first.ravel()
    starts = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    rows = np.repeat(firsts - starts, sizes) + np.arange(total)
    return Crystals(
        lattice,
        np.concatenate([[0], np.cumsum(size.sum(axis=1))]).astype(np.int64),
        np.repeat(elements.ravel(), sizes).astype(np.uint8),
        np.concatenate(tables)[rows] if total else np.zeros((0, 3)),
    )


@dataclass(frozen=True)
class Decomposition:
    """Crystals as S base sites.

    Attributes:
        index: (k,) which of the given crystals these are; the others have no such form.
        space_groups: (k,) 216, 221 or 225.
        points: (k, S) grid index of the representative of each orbit.
        elements: (k, S) atomic numbers, distinct.
        lengths: (k,) conventional lattice constant in Å.
    """

    index: NDArray[np.int64]
    space_groups: NDArray[np.int64]
    points: NDArray[np.int64]
    elements: NDArray[np.int64]
    lengths: NDArray[np.float64]


def decompose(crystals: Crystals, space_groups: tuple[int, ...], sites: int = 3) -> Decomposition:
    """Find those crystals that are ``sites`` orbits of as many elements on the quarter grid.

    Symmetry is searched once for every set of crystals that differ only by size and by which elements they hold.
    """
    known: dict[bytes, tuple[int, NDArray, NDArray, float] | None] = {}
    rows: list[tuple[int, int, NDArray, NDArray, float]] = []
    for i in range(len(crystals)):
        part = crystals.atoms_of(i)
        numbers = crystals.numbers[part]
        kinds, labels = np.unique(numbers, return_inverse=True)
        scale = np.cbrt(abs(np.linalg.det(crystals.lattice[i])))
        if len(kinds) != sites or not np.isfinite(scale) or scale <= 0:
            continue
        shape = np.round(crystals.lattice[i] / scale, 4) + 0.0
        frac = np.round(crystals.frac_coords[part], 4) + 0.0
        key = shape.tobytes() + frac.tobytes() + labels.tobytes()
        if key not in known:
            known[key] = _decompose_one(crystals.lattice[i] / scale, crystals.frac_coords[part], labels, scale)
        found = known[key]
        if found is not None and found[0] in space_groups:
            number, points, order, length = found
            rows.append((i, number, points, kinds[order].astype(np.int64), length * scale))
    if not rows:
        none = np.zeros((0, sites), np.int64)
        return Decomposition(np.zeros(0, np.int64), np.zeros(0, np.int64), none, none, np.zeros(0))
    index, groups, points, elements, lengths = zip(*rows, strict=True)
    return Decomposition(
        np.array(index), np.array(groups), np.array(points), np.array(elements), np.array(lengths, dtype=np.float64)
    )


def _decompose_one(
    lattice: NDArray, frac: NDArray, labels: NDArray, scale: float
) -> tuple[int, NDArray, NDArray, float] | None:
    """Space group, grid points, labels in the order of the points, conventional length; None if there is no such form.

    ``lattice`` is given, and the length returned, in units of ``scale`` (Å).
    """
    try:
        cell = ((lattice * scale).tolist(), frac.tolist(), labels.tolist())
        found = _quietly(spglib.get_symmetry_dataset, cell, symprec=SYMPREC)
    except spglib.error.SpglibError:
        return None
    if found is None or found.number not in HALL_NUMBERS:
        return None
    nearest = np.rint(found.std_positions * GRID)
    if np.abs(found.std_positions * GRID - nearest).max() > GRID_TOLERANCE * GRID:
        return None
    group, index = space_group(found.number), grid_index(nearest.astype(np.int64))
    points, order = [], []
    for label in range(int(labels.max()) + 1):
        orbits = np.unique(group.orbit_of[index[found.std_types == label]])
        if len(orbits) != 1:
            return None
        points.append(group.representative[orbits[0]])
        order.append(label)
    return found.number, np.array(points), np.array(order), float(found.std_lattice[0, 0]) / scale
