"""Remembered space groups must be those that spglib gives for every crystal by itself."""

import numpy as np
from pymatgen.core import Lattice, Structure

from sluice.chemistry.symmetry import SpaceGroupFinder, space_group
from sluice.crystals import Crystals
from sluice.models.orbits import HALL_NUMBERS, build_crystals
from sluice.models.orbits import space_group as grid_group

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


def test_a_flat_cell_has_no_space_group():
    flat = Crystals(
        np.zeros((1, 3, 3)), np.array([0, 2]), np.array([11, 17], np.uint8), np.array([[0.0] * 3, [0.5] * 3])
    )
    assert SpaceGroupFinder(SYMPREC)(flat).tolist() == [0]


def test_every_arrangement_on_the_grid_has_the_group_that_spglib_finds():
    """What CubicGAN makes, at random: all three space groups, every orbit, elements and sizes mixed."""
    rng = np.random.default_rng(5)
    n = 120
    numbers = rng.choice(list(HALL_NUMBERS), n)
    orbits = [rng.choice(len(grid_group(number).representative), 3, replace=False) for number in numbers]
    points = np.array([grid_group(number).representative[o] for number, o in zip(numbers, orbits, strict=True)])
    elements = np.array([rng.choice(np.arange(1, 84), 3, replace=False) for _ in range(n)])
    crystals = build_crystals(numbers, points, elements, rng.uniform(2.5, 12.0, n))
    small = np.flatnonzero(crystals.n_atoms <= 14)
    crystals, numbers = crystals[small], numbers[small]
    finder = SpaceGroupFinder(SYMPREC)
    found = np.concatenate([finder(crystals[start : start + 50]) for start in range(0, len(crystals), 50)])
    direct = [
        space_group(crystals.lattice[i], crystals.frac_coords[part], crystals.numbers[part], SYMPREC)
        for i in range(len(crystals))
        for part in [crystals.atoms_of(i)]
    ]
    assert found.tolist() == direct
    assert (found != numbers).any()  # some have more symmetry than they were made with
