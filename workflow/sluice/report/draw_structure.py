"""A crystal as something to draw: atoms of the conventional cell, bonds, coordination polyhedra, cell edges.

The page's viewer (``viewer.js``) needs only points and index pairs, a few kB for a crystal.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml
from ase.data import covalent_radii
from numpy.typing import NDArray
from pymatgen.core import Element, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from scipy.spatial import ConvexHull, QhullError
from spglib import SpglibError

# ASSUME: a bond reaches to the nearest unlike neighbours of both its atoms, within 15 %; for drawing only.
BOND_TOLERANCE = 1.15
MAX_ATOMS = 400  # beyond that a crystal is drawn without images, bonds and polyhedra
_EDGE = 1e-3


def conventional_cell(structure: Structure, symprec: float = 0.1) -> Structure:
    """The conventional standard cell, or the given one where spglib finds none."""
    try:
        return SpacegroupAnalyzer(structure, symprec=symprec).get_conventional_standard_structure()
    except (ValueError, TypeError, SpglibError):
        return structure


@cache
def _vesta_colors() -> dict[str, list[int]]:
    text = (files("pymatgen.core") / "ElementColorSchemes.yaml").read_text(encoding="utf-8")
    colors: dict[str, list[int]] = yaml.safe_load(text)["VESTA"]
    return colors


def element_color(symbol: str) -> str:
    """VESTA's colour of an element as ``#rrggbb`` (Jmol's hardly tells Mg, Ca, F and Cl apart)."""
    return "#" + "".join(f"{value:02x}" for value in _vesta_colors().get(symbol, [128, 128, 128]))


def _with_images(frac: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Atoms of one cell and their copies on its faces, edges and corners: (k,) owners, (k, 3) coordinates."""
    frac = np.mod(frac, 1.0)
    frac = np.where(frac > 1.0 - _EDGE, frac - 1.0, frac)
    owners, points = [], []
    for i, x in enumerate(frac):
        shifts = [(0, 1) if abs(v) < _EDGE else (0,) for v in x]
        for shift in np.array(np.meshgrid(*shifts)).T.reshape(-1, 3):
            owners.append(i)
            points.append(x + shift)
    return np.array(owners, dtype=np.int64), np.array(points)


def _neighbours(structure: Structure) -> list[list[tuple[int, NDArray[np.float64]]]]:
    """For each atom its bonded neighbours: index and shift in fractional coordinates to the neighbour."""
    center, other, images, distance = structure.get_neighbor_list(r=5.0)
    numbers = np.array(structure.atomic_numbers)
    unlike = numbers[center] != numbers[other] if len(set(numbers.tolist())) > 1 else np.ones(len(center), bool)
    nearest = np.full(len(structure), np.inf)
    np.minimum.at(nearest, center[unlike], distance[unlike])
    bonded = unlike & (distance <= BOND_TOLERANCE * np.minimum(nearest[center], nearest[other]))
    found: list[list[tuple[int, NDArray[np.float64]]]] = [[] for _ in range(len(structure))]
    for i, j, image in zip(center[bonded], other[bonded], images[bonded], strict=True):
        found[i].append((int(j), structure.frac_coords[j] + image - structure.frac_coords[i]))
    return found


def _polyhedron(points: NDArray[np.float64]) -> list[list[int]]:
    try:
        return ConvexHull(points, qhull_options="Qt").simplices.tolist()
    except QhullError:  # flat coordination
        return []


def _is_polyhedron_center(structure: Structure, i: int, neighbours: list[tuple[int, NDArray[np.float64]]]) -> bool:
    """Whether atom ``i`` is a cation in a tetrahedron or octahedron of anions."""
    if len(neighbours) not in (4, 6):
        return False
    differences = [structure[j].specie.X - structure[i].specie.X for j, _ in neighbours]
    return min(differences) > 0.5


class _Scene:
    """Points drawn once each, however many bonds and polyhedra ask for them."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.index: dict[tuple[int, ...], int] = {}
        self.owner: list[int] = []
        self.frac: list[NDArray[np.float64]] = []

    def point(self, owner: int, frac: NDArray[np.float64], *, add: bool = True) -> int | None:
        key = (owner, *np.round(frac * 1000).astype(int).tolist())
        if key not in self.index:
            if not add:
                return None
            self.index[key] = len(self.owner)
            self.owner.append(owner)
            self.frac.append(frac)
        return self.index[key]


def draw_structure(structure: Structure, symprec: float = 0.1) -> dict[str, Any]:
    """What the viewer draws: coordinates in Å around the cell's centre.

    Returns:
        ``elements`` [{symbol, color, radius}], ``atoms`` [[element, x, y, z]], ``bonds`` [[i, j]], ``faces``
        [[element, i, j, k]] of coordination polyhedra, ``cell`` the three vectors.
    """
    cell = conventional_cell(structure, symprec)
    symbols = sorted({site.specie.symbol for site in cell}, key=lambda s: Element(s).X)
    scene = _Scene(cell)
    frac = np.where(np.mod(cell.frac_coords, 1.0) > 1.0 - _EDGE, 0.0, np.mod(cell.frac_coords, 1.0))
    cell = Structure(cell.lattice, cell.species, frac)
    scene.structure = cell
    large = len(cell) > MAX_ATOMS
    neighbours = [[] for _ in cell] if large else _neighbours(cell)
    owners, points = (np.arange(len(cell)), frac) if large else _with_images(frac)
    for i, x in zip(owners, points, strict=True):
        scene.point(int(i), x)
    faces: list[list[int]] = []
    for i, x in zip(owners, points, strict=True):
        if _is_polyhedron_center(cell, i, neighbours[i]):
            corners = [scene.point(j, x + shift) for j, shift in neighbours[i]]
            vertices = np.array([x + shift for _, shift in neighbours[i]]) @ cell.lattice.matrix
            kind = symbols.index(cell[i].specie.symbol)
            faces += [[kind, *(corners[k] or 0 for k in face)] for face in _polyhedron(vertices)]
    bonds = set()
    for start, (i, x) in enumerate(zip(list(scene.owner), list(scene.frac), strict=True)):
        for j, shift in neighbours[i]:
            end = scene.point(j, x + shift, add=False)
            if end is not None and start != end:
                bonds.add((min(start, end), max(start, end)))
    matrix = cell.lattice.matrix
    xyz = (np.array(scene.frac) - 0.5) @ matrix
    kinds = [symbols.index(cell[i].specie.symbol) for i in scene.owner]
    return {
        "elements": [
            {"symbol": s, "color": element_color(s), "radius": round(float(covalent_radii[Element(s).Z]), 2)}
            for s in symbols
        ],
        "atoms": [[kind, *np.round(x, 3).tolist()] for kind, x in zip(kinds, xyz, strict=True)],
        "bonds": sorted(bonds),
        "faces": faces,
        "cell": np.round(matrix, 3).tolist(),
    }
