"""Ragged arrays of crystals: what goes in comes out, and a structure's hash is the structure's."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from sluice.crystals import Crystals


def cscl(a: float = 4.1) -> Structure:
    return Structure(Lattice.cubic(a), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def perovskite(a: float = 4.0) -> Structure:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Structure(Lattice.cubic(a), ["K", "Mg", "F", "F", "F"], sites)


@pytest.fixture
def three() -> Crystals:
    return Crystals.from_structures([cscl(), perovskite(), cscl(3.9)])


def test_structures_survive(three):
    for before, after in zip([cscl(), perovskite(), cscl(3.9)], three.structures(), strict=True):
        assert before == after


def test_ase_atoms_survive():
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    back = Crystals.from_atoms([atoms]).ase_atoms(0)
    assert back.get_chemical_formula() == atoms.get_chemical_formula()
    np.testing.assert_allclose(back.positions, atoms.positions, atol=1e-12)
    np.testing.assert_allclose(np.asarray(back.cell), np.asarray(atoms.cell))
    assert back.pbc.all()


def test_counts_volumes_formulas(three):
    assert len(three) == 3
    assert three.n_atoms.tolist() == [2, 5, 2]
    np.testing.assert_allclose(three.volumes, [4.1**3, 64.0, 3.9**3])
    assert three.reduced_formulas() == ["CsCl", "KMgF3", "CsCl"]


def test_left_handed_cells_have_positive_volume():
    cell = np.diag([2.0, 3.0, 4.0])[[1, 0, 2]]
    assert Crystals.from_arrays([cell], [np.array([3])], [np.zeros((1, 3))]).volumes == pytest.approx([24.0])


def test_selection_by_slice_mask_and_repeated_index(three):
    assert three[1:].reduced_formulas() == ["KMgF3", "CsCl"]
    assert three[np.array([False, True, False])].reduced_formulas() == ["KMgF3"]
    picked = three[[2, 1, 1]]
    assert picked.reduced_formulas() == ["CsCl", "KMgF3", "KMgF3"]
    assert picked.structure(2) == perovskite()
    assert len(three[:0]) == 0 and three[:0].atom_offsets.tolist() == [0]


def test_concatenation_is_the_inverse_of_slicing(three):
    again = Crystals.concatenate([three[:1], three[1:1], three[1:]])
    assert list(again.structures()) == list(three.structures())
    assert len(Crystals.concatenate([])) == 0


def test_empty():
    empty = Crystals.empty()
    assert len(empty) == 0 and len(empty.volumes) == 0 and empty.reduced_formulas() == []
    assert empty.structure_hashes().shape == (0,)
    assert len(Crystals.from_structures([])) == 0


def test_partial_occupancy_is_refused():
    mixed = Structure(Lattice.cubic(4.0), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    with pytest.raises(ValueError, match="partially occupied"):
        Crystals.from_structures([mixed])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lattice": np.zeros((2, 3))}, "lattice"),
        ({"atom_offsets": np.array([0, 1])}, "atom_offsets has shape"),
        ({"atom_offsets": np.array([0, 2, 1])}, "rise"),
        ({"atom_offsets": np.array([1, 1, 2])}, "rise"),
        ({"frac_coords": np.zeros((3, 3))}, "frac_coords"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    arrays = {
        "lattice": np.tile(np.eye(3), (2, 1, 1)),
        "atom_offsets": np.array([0, 1, 2]),
        "numbers": np.array([1, 2], np.uint8),
        "frac_coords": np.zeros((2, 3)),
    }
    Crystals(**arrays)
    with pytest.raises(ValueError, match=message):
        Crystals(**(arrays | change))


def test_hash_changes_with_what_matters_and_with_nothing_else(three):
    first, second, third = three.structure_hashes()
    assert len({first, second, third}) == 3
    assert three[[0]].structure_hashes()[0] == first
    shifted = Crystals(three.lattice, three.atom_offsets, three.numbers, three.frac_coords + 1.0)
    assert shifted.structure_hashes().tolist() == [first, second, third]
    swapped = Crystals(three.lattice, three.atom_offsets, three.numbers[::-1].copy(), three.frac_coords)
    assert swapped.structure_hashes()[0] != first


@settings(max_examples=30, deadline=None)
@given(noise=st.floats(-4e-5, 4e-5), a=st.integers(30, 90))
def test_hash_ignores_rounding_noise(noise, a):
    base = Crystals.from_structures([cscl(a / 10)])
    noisy = Crystals(base.lattice, base.atom_offsets, base.numbers, base.frac_coords + noise)
    assert noisy.structure_hashes().tolist() == base.structure_hashes().tolist()
