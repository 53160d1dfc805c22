"""Distances and densities against pymatgen, which knows about periodic images."""

import time

import numpy as np
import pytest
from ase.data import covalent_radii
from pymatgen.core import Lattice, Structure

from sluice.chemistry.geometry import densities, min_distance_ratios
from sluice.crystals import Crystals


def expected_ratio(structure: Structure) -> float:
    """The least ratio by looking at every neighbour within a radius that certainly holds the nearest one."""
    radius = max(structure.lattice.abc) * 1.01
    i, j, _, d = structure.get_neighbor_list(radius)
    radii = covalent_radii[[site.specie.Z for site in structure]]
    return float((d / (radii[i] + radii[j])).min())


def random_structures(n: int, seed: int = 7) -> list[Structure]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        k = int(rng.integers(1, 9))
        lattice = Lattice.from_parameters(*rng.uniform(3, 9, 3), *rng.uniform(50, 130, 3))
        if np.isnan(lattice.volume) or lattice.volume < 20:
            lattice = Lattice.cubic(5.0)
        numbers = rng.integers(1, 84, k).tolist()
        found.append(Structure(lattice, numbers, rng.uniform(-1, 2, (k, 3))))
    return found


def test_least_ratios_equal_those_of_a_neighbour_search_in_any_cell():
    structures = random_structures(150)
    found = min_distance_ratios(Crystals.from_structures(structures))
    assert found == pytest.approx([expected_ratio(s) for s in structures], rel=1e-9)


def test_distances_equal_pymatgens_distance_matrix():
    structures = [s for s in random_structures(60, seed=3) if len(s) > 1]
    for structure in structures:
        radii = covalent_radii[[site.specie.Z for site in structure]]
        own_images = min(structure.lattice.get_points_in_sphere([[0, 0, 0]], [0, 0, 0], 30), key=lambda p: p[1] or 99)[
            1
        ]
        matrix = structure.distance_matrix + np.where(np.eye(len(structure)), own_images, 0.0)
        expected = (matrix / (radii[:, None] + radii[None])).min()
        assert min_distance_ratios(Crystals.from_structures([structure]))[0] == pytest.approx(expected, rel=1e-9)


def test_a_sheared_cell_gives_the_distance_of_the_reduced_one():
    cubic = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    sheared = cubic.copy()
    sheared.make_supercell([[1, 4, 0], [0, 1, 3], [0, 0, 1]])
    ratios = min_distance_ratios(Crystals.from_structures([cubic, sheared]))
    assert ratios[1] == pytest.approx(ratios[0], rel=1e-12)


def test_a_single_atom_is_compared_with_its_own_images():
    polonium = Structure(Lattice.cubic(3.35), ["Po"], [[0, 0, 0]])
    assert min_distance_ratios(Crystals.from_structures([polonium]))[0] == pytest.approx(
        3.35 / (2 * covalent_radii[84]), rel=1e-12
    )


def test_flat_and_infinite_cells_have_no_ratio():
    cells = np.array([np.diag([4.0, 4.0, 0.0]), np.full((3, 3), np.nan), np.eye(3) * 4])
    crystals = Crystals.from_arrays(list(cells), [np.array([11])] * 3, [np.zeros((1, 3))] * 3)
    assert np.isnan(min_distance_ratios(crystals)).tolist() == [True, True, False]


def test_densities_equal_pymatgens():
    structures = random_structures(40, seed=11)
    assert densities(Crystals.from_structures(structures)) == pytest.approx([s.density for s in structures], rel=1e-3)


def test_twenty_thousand_crystals_take_seconds():
    rng = np.random.default_rng(0)
    structures = [s for s in random_structures(400, seed=5) if len(s) == 5]
    crystals = Crystals.from_structures(structures)[rng.integers(0, len(structures), 20_000)]
    start = time.process_time()
    min_distance_ratios(crystals)
    assert time.process_time() - start < 5.0


def test_no_crystals_no_ratios():
    assert min_distance_ratios(Crystals.empty()).shape == densities(Crystals.empty()).shape == (0,)
