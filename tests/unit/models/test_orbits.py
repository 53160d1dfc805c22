import numpy as np
import pytest
from crystals_for_models import PROTOTYPES, decorated
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import SpaceGroup as PymatgenGroup

from sluice.chemistry.symmetry import space_group as find_space_group
from sluice.crystals import Crystals
from sluice.models.orbits import build_crystals, decompose, grid_index, grid_points, space_group


@pytest.mark.parametrize("number", [216, 221, 225])
def test_orbits_are_pymatgens(number):
    table = space_group(number)
    group = PymatgenGroup.from_int_number(number)
    centring = 1 if number == 221 else 4
    for orbit, point in enumerate(table.representative):
        expected = group.get_orbit(grid_points()[point] / 4)
        assert table.sizes[orbit] * centring == len(expected)
        found = {tuple(p) for p in grid_points()[table.orbit_of == orbit] / 4}
        assert found == {tuple(np.round(p, 6)) for p in expected}
    assert len(np.unique(table.orbit_of)) == len(table.representative)


def test_perovskite_is_built():
    built = build_crystals(
        np.array([221]),
        grid_index(np.array([[[0, 0, 0], [2, 2, 2], [0, 2, 2]]])),
        np.array([[38, 22, 8]]),
        np.array([3.9]),
    )
    expected = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0, 0.5, 0.5]]
    )
    assert StructureMatcher(primitive_cell=False).fit(built.structure(0), expected)
    assert built.n_atoms.tolist() == [5]


def test_face_centred_cells_are_primitive():
    crystals, prototypes, numbers, lengths = decorated()
    i = prototypes.index("heusler")
    assert crystals.n_atoms[i] == 4
    assert crystals.volumes[i] == pytest.approx(lengths[i] ** 3 / 4)
    assert numbers[i] == PROTOTYPES["heusler"][0]
    part = crystals.atoms_of(i)
    assert find_space_group(crystals.lattice[i], crystals.frac_coords[part], crystals.numbers[part], 0.01) == 225


def test_decompose_undoes_build():
    crystals, _, numbers, lengths = decorated()
    found = decompose(crystals, (216, 221, 225))
    assert found.index.tolist() == list(range(len(crystals)))
    np.testing.assert_array_equal(found.space_groups, numbers)
    np.testing.assert_allclose(found.lengths, lengths, rtol=1e-6)
    again = build_crystals(found.space_groups, found.points, found.elements, found.lengths)
    matcher = StructureMatcher(scale=False, primitive_cell=False)
    for i in range(0, len(crystals), 29):
        assert matcher.fit(again.structure(i), crystals.structure(i))


def test_other_cells_of_the_same_crystal_decompose_alike():
    crystals = decorated()[0][::50]
    moved = []
    for structure in crystals.structures():
        structure.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
        structure.translate_sites(range(len(structure)), [0.3, 0.1, 0.6])
        moved.append(structure)
    found, again = (decompose(c, (216, 221, 225)) for c in (crystals, Crystals.from_structures(moved)))
    np.testing.assert_array_equal(found.index, again.index)
    np.testing.assert_array_equal(found.space_groups, again.space_groups)
    np.testing.assert_allclose(found.lengths, again.lengths, rtol=1e-6)


def test_what_has_no_such_form_is_left_out():
    off_grid = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(10.0), ["K", "Pt", "Cl"], [[0.25] * 3, [0, 0, 0], [0.21, 0, 0]]
    )
    binary = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    orthorhombic = Structure(Lattice.orthorhombic(4, 5, 6), ["Na", "Cl", "Mg"], [[0, 0, 0], [0.5] * 3, [0.5, 0, 0]])
    found = decompose(Crystals.from_structures([off_grid, binary, orthorhombic]), (216, 221, 225))
    assert len(found.index) == 0
