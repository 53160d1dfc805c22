"""Remembered space groups must be those that spglib gives for every crystal by itself."""

import numpy as np
from pymatgen.core import Lattice, Structure

from sluice.chemistry.symmetry import SpaceGroupFinder, space_group
from sluice.crystals import Crystals

SYMPREC = 0.1


def arrangements() -> list[Structure]:
    ideal = Structure.from_spacegroup(221, Lattice.cubic(1), ["K", "Mg", "F"], [[0.5] * 3, [0] * 3, [0.5, 0, 0]])
    shifted = ideal.copy()
    shifted.translate_sites([1], [0.02, 0, 0], frac_coords=True)  # cubic within the tolerance while small only
    stretched = Structure(Lattice.tetragonal(1, 1.02), ideal.species, ideal.frac_coords)
    heusler = Structure.from_spacegroup(216, Lattice.cubic(1), ["Li", "Al", "Si"], [[0] * 3, [0.25] * 3, [0.5] * 3])
    return [ideal, shifted, stretched, heusler]


def test_answers_equal_spglibs_for_every_size_and_decoration():
    rng, kinds = np.random.default_rng(1), arrangements()
    crystals = []
    for _ in range(300):
        base = kinds[rng.integers(4)]
        scaled = Structure(Lattice(base.lattice.matrix * rng.uniform(2.0, 9.0)), base.species, base.frac_coords)
        elements = rng.permutation(["K", "Mg", "F", "Li", "Al", "Si", "Cs", "Cl"]).tolist()
        names = sorted({site.specie.symbol for site in scaled})
        scaled.replace_species(dict(zip(names, elements, strict=False)))
        crystals.append(scaled)
    batch = Crystals.from_structures(crystals)
    finder = SpaceGroupFinder(SYMPREC)
    found = finder(batch)
    numbers = [batch.numbers[batch.atoms_of(i)] for i in range(len(batch))]
    direct = [
        space_group(batch.lattice[i], batch.frac_coords[batch.atoms_of(i)], numbers[i], SYMPREC)
        for i in range(len(batch))
    ]
    assert found.tolist() == direct
    assert len(set(direct)) >= 3  # the sizes do decide for the distorted ones
    assert finder.calls < 150


def test_the_answer_does_not_depend_on_what_came_before():
    base = arrangements()[1]
    sizes = np.linspace(3.0, 9.0, 25)
    crystals = Crystals.from_structures([Structure(Lattice.cubic(a), base.species, base.frac_coords) for a in sizes])
    upwards = SpaceGroupFinder(SYMPREC)(crystals)
    shuffled = np.random.default_rng(0).permutation(len(sizes))
    again = np.empty_like(upwards)
    again[shuffled] = SpaceGroupFinder(SYMPREC)(crystals[shuffled])
    assert upwards.tolist() == again.tolist()


def test_overlapping_atoms_have_no_space_group():
    assert space_group(np.eye(3) * 4, np.zeros((2, 3)), np.array([11, 11]), SYMPREC) == 0


def test_nothing_in_nothing_out():
    assert SpaceGroupFinder(SYMPREC)(Crystals.empty()).shape == (0,)
