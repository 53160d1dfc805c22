"""The table of cubic prototypes on the quarter grid, and their decoration with elements.

A prototype is three or four sites in one of the space groups 216, 221, 225, every coordinate a multiple of 1/4. The
table holds every such arrangement of three elements with experimentally known members (ICSD flag) among the Materials
Project's cubic crystals, and of four elements the two that hold 171 of the 177 known ones; arrangements found there
only as hypothetical crystals are left out.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from sluice.crystals import Crystals, reduced_formula
from sluice.models.orbits import GRID, grid_index, space_group

Coordinates = tuple[float, float, float]
STAND_INS = ("Na", "Sr", "Rn", "Bi")  # elements that stand for the sites while a cell is built


@dataclass(frozen=True)
class Prototype:
    """Three or four occupied sites of a cubic space group.

    Attributes:
        name: its key; the configuration lists these.
        space_group: international number.
        wyckoff: Wyckoff letter of each site in the standard setting.
        sites: one representative fractional coordinate of each site in the conventional cell.
        multiplicities: atoms of each site in the conventional cell.
        source: where it is described.
    """

    name: str
    space_group: int
    wyckoff: tuple[str, ...]
    sites: tuple[Coordinates, ...]
    multiplicities: tuple[int, ...]
    source: str


PROTOTYPES = (
    Prototype(
        "half-heusler",
        216,
        ("a", "b", "c"),
        ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        (4, 4, 4),
        "MgAgAs, Strukturbericht C1_b; e.g. LiAlSi",
    ),
    Prototype(
        "heusler",
        225,
        ("a", "b", "c"),
        ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        (4, 4, 8),
        "AlCu2Mn, Strukturbericht L2_1; with an anion on 4a or 4b also known as inverse assignment",
    ),
    Prototype(
        "perovskite",
        221,
        ("b", "a", "d"),
        ((0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (0.5, 0.0, 0.0)),
        (1, 1, 3),
        "CaTiO3 cubic, Strukturbericht E2_1 (KMgF3); with a cation on 3d the antiperovskite, e.g. Ca3AlC, Na3OCl",
    ),
    Prototype(
        "K2PtCl6",
        225,
        ("a", "c", "e"),
        ((0.0, 0.0, 0.0), (0.25, 0.25, 0.25), (0.25, 0.0, 0.0)),
        (4, 8, 24),
        "K2PtCl6, Strukturbericht J1_1; e.g. Rb2TeCl6 (mp-22975); x of 24e set to 1/4",
    ),
    Prototype(
        "MgZrF6",
        225,
        ("a", "b", "e"),
        ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.25, 0.0, 0.0)),
        (4, 4, 24),
        "ordered ReO3, e.g. MgZrF6 (mp-1025460), TiZrF6 (mp-16548); x of 24e set to 1/4",
    ),
    Prototype(
        "Mg3NF3",
        221,
        ("b", "c", "d"),
        ((0.5, 0.5, 0.5), (0.0, 0.5, 0.5), (0.5, 0.0, 0.0)),
        (1, 3, 3),
        "Mg3NF3 (mp-7604), Ca3PCl3 (mp-29342): rock salt with an ordered quarter of one sort missing",
    ),
    Prototype(
        "Ca6LiGe",
        225,
        ("a", "b", "d"),
        ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.0, 0.25, 0.25)),
        (4, 4, 24),
        "Ca6LiGe (mp-12609), Pt6CuMn: a face-centred metal with two ordered guests",
    ),
    Prototype(
        "quaternary-heusler",
        216,
        ("a", "b", "c", "d"),
        ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (0.75, 0.75, 0.75)),
        (4, 4, 4, 4),
        "LiMgPdSn, also called LiMgPdSb; e.g. LiMgSbPd (mp-10179)",
    ),
    Prototype(
        "elpasolite",
        225,
        ("a", "b", "c", "e"),
        ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (0.25, 0.0, 0.0)),
        (4, 4, 8, 24),
        "K2NaAlF6, the double perovskite; e.g. Cs2AgBiCl6, Ba2YOsO6; x of 24e set to 1/4",
    ),
)


@dataclass(frozen=True)
class PrimitiveCell:
    """A prototype's primitive standard cell for a conventional lattice constant of 1.

    Attributes:
        lattice: (3, 3) cell vectors in units of the lattice constant.
        roles: (k,) which of the s sites each atom belongs to.
        frac_coords: (k, 3) fractional coordinates.
        contacts: (s, s) shortest distance between the sites in units of the lattice constant.
    """

    lattice: NDArray[np.float64]
    roles: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    contacts: NDArray[np.float64]


def find_prototypes(names: tuple[str, ...], space_groups: tuple[int, ...]) -> list[Prototype]:
    """The prototypes of these names (empty: all ternary ones) in these space groups, in the table's order."""
    return [
        p for p in PROTOTYPES if (p.name in names if names else len(p.sites) == 3) and p.space_group in space_groups
    ]


@lru_cache(maxsize=64)
def primitive_cell(prototype: Prototype) -> PrimitiveCell:
    """Build the primitive standard cell once; decoration only exchanges atomic numbers."""
    scale = 10.0
    conventional = Structure.from_spacegroup(
        prototype.space_group,
        Lattice.cubic(scale),
        list(STAND_INS[: len(prototype.sites)]),
        [list(site) for site in prototype.sites],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how pymatgen calls spglib
        cell = SpacegroupAnalyzer(conventional, symprec=1e-3).get_primitive_standard_structure()
    roles = np.array([STAND_INS.index(site.specie.symbol) for site in cell])
    order = np.argsort(roles, kind="stable")
    frac = np.round(np.mod(cell.frac_coords[order], 1.0) * 8) / 8 % 1.0
    contacts = np.full((len(prototype.sites),) * 2, np.inf)
    for i, j, distance in zip(*(cell.get_neighbor_list(1.05 * scale)[k] for k in (0, 1, 3)), strict=True):
        pair = roles[i], roles[j]
        contacts[pair] = min(contacts[pair], distance / scale)
    return PrimitiveCell(np.round(cell.lattice.matrix / scale, 9), roles[order], frac, contacts)


def equivalent_orders(prototype: Prototype) -> list[tuple[int, ...]]:
    """Permutations of the sites that a shift of the origin or an inversion brings about: they are one crystal."""
    group = space_group(prototype.space_group)
    orbits = group.orbit_of[grid_index(np.rint(GRID * np.array(prototype.sites)).astype(np.int64))]
    images = group.equivalents[:, orbits]
    kept = images[(np.sort(images, axis=1) == np.sort(orbits)).all(axis=1)]
    return sorted({tuple(int(np.flatnonzero(orbits == orbit)[0]) for orbit in image) for image in kept})


def decorations(prototype: Prototype, elements: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every way to put different elements on the sites, of equivalent ones the first in the alphabet."""
    orders = equivalent_orders(prototype)
    return [
        chosen
        for chosen in permutations(sorted(elements), len(prototype.sites))
        if all(chosen <= tuple(chosen[k] for k in order) for order in orders)
    ]


def formulas(prototype: Prototype, decorations: list[tuple[str, ...]]) -> list[str]:
    """Reduced formula of each decorated crystal, none of which is made."""
    counts = prototype.multiplicities
    found = []
    for chosen in decorations:
        atoms = sorted((Element(symbol).Z, count) for symbol, count in zip(chosen, counts, strict=True))
        found.append(reduced_formula(tuple(z for z, _ in atoms), tuple(count for _, count in atoms)))
    return found


def crystal_id(prototype: Prototype, elements: tuple[str, ...]) -> str:
    """A name that is the same on every machine, e.g. ``perovskite_K-Mg-F``."""
    return f"{prototype.name}_{'-'.join(elements)}"


def decorate(
    prototype: Prototype, decorations: list[tuple[str, ...]], lattice_constants: NDArray[np.float64]
) -> Crystals:
    """Primitive crystals of one prototype.

    Args:
        prototype: the arrangement.
        decorations: n tuples of element symbols, one for each site.
        lattice_constants: (n,) conventional lattice constants in Å.
    """
    n = len(decorations)
    if n == 0:
        return Crystals.empty()
    cell = primitive_cell(prototype)
    k = len(cell.roles)
    numbers = np.array([[Element(e).Z for e in chosen] for chosen in decorations], dtype=np.uint8)
    return Crystals(
        cell.lattice[None] * np.asarray(lattice_constants, np.float64)[:, None, None],
        np.arange(n + 1, dtype=np.int64) * k,
        numbers[:, cell.roles].reshape(-1),
        np.tile(cell.frac_coords, (n, 1)),
    )
