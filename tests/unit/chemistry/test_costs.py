"""Estimates against measured runs of pw.x, and their dependence on what costs."""

import pytest
from pymatgen.core import Lattice, Structure

from sluice.chemistry.costs import _free_atoms, estimate_cpu_seconds, irreducible_k_points
from sluice.validate.espresso.references import reference_structure
from sluice.validate.espresso.sets import calculation_settings, prepare_structure

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib


def cubic(group, length, species, sites):
    return Structure.from_spacegroup(group, Lattice.cubic(length), species, sites)


PEROVSKITE = ([0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0])
KMGF3 = cubic(221, 4.06, ["K", "Mg", "F"], PEROVSKITE)
SRTIO3 = cubic(221, 3.94, ["Sr", "Ti", "O"], PEROVSKITE)
NACL = cubic(225, 5.69, ["Na", "Cl"], ([0, 0, 0], [0.5, 0.5, 0.5]))


def estimate(structure, protocol, tier, spin_elements=(), relax_on_static_grid=True):
    structure = prepare_structure(structure)
    settings = calculation_settings(structure, protocol=protocol, tier=tier, spin_elements=spin_elements)
    if relax_on_static_grid:  # how the measured ones were made
        settings = settings.model_copy(update={"relax_kpoints": settings.kpoints})
    return estimate_cpu_seconds(structure, settings)


@pytest.mark.parametrize(
    ("structure", "protocol", "tier", "measured"),
    [
        (KMGF3, "fast", "T60", 79.0),
        (NACL, "balanced", "T40", 37.0),
        (SRTIO3, "balanced", "T50", 138.0),
    ],
)
def test_compounds_within_a_factor_of_two_of_measured_relaxations(structure, protocol, tier, measured):
    assert measured / 2 < estimate(structure, protocol, tier) < 2 * measured


@pytest.mark.parametrize(
    ("element", "protocol", "tier", "spin", "measured"),
    [
        ("Mg", "fast", "T60", (), 36.0),
        ("Na", "fast", "T60", (), 13.0),
        ("Li", "fast", "T40", (), 2.4),
        ("Al", "fast", "T40", (), 6.2),
        ("F", "fast", "T60", (), 9.0),
        ("Fe", "balanced", "T90D12", ("Fe",), 237.0),
    ],
)
def test_references_within_a_factor_of_two_and_a_half(element, protocol, tier, spin, measured):
    row = reference_structure(element)
    settings = calculation_settings(
        row.structure, protocol=protocol, tier=tier, spin_elements=spin, relax=row.relax, box=row.box
    )
    if tier != "T40":  # those were relaxed on the grid of the static run
        settings = settings.model_copy(update={"relax_kpoints": settings.kpoints})
    assert measured / 2.5 < estimate_cpu_seconds(row.structure, settings) < 2.5 * measured


def test_more_of_anything_costs_more():
    base = estimate(NACL, "fast", "T40", relax_on_static_grid=False)
    assert estimate(NACL, "fast", "T60", relax_on_static_grid=False) > base
    assert estimate(NACL, "balanced", "T40", relax_on_static_grid=False) > base
    assert estimate(NACL, "fast", "T40", ("Na",), relax_on_static_grid=False) > 2 * base
    assert estimate(SRTIO3, "fast", "T40", relax_on_static_grid=False) > base


def test_irreducible_points_are_those_of_the_full_cubic_group():
    # Γ-centred 4x4x4 of a simple cubic lattice: 10 points (Monkhorst and Pack 1976); n³/2 + 4 without rotations.
    assert irreducible_k_points(KMGF3, (4, 4, 4)) == 10
    assert irreducible_k_points(KMGF3, (4, 4, 4), nosym=True) == 36


def test_atoms_are_free_only_where_their_site_lets_them_go():
    assert not _free_atoms(KMGF3)
    wurtzite = prepare_structure(
        Structure.from_spacegroup(
            186, Lattice.hexagonal(3.25, 5.2), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]
        )
    )
    assert _free_atoms(wurtzite)
    zincblende = cubic(216, 5.4, ["Zn", "S"], ([0, 0, 0], [0.25, 0.25, 0.25]))
    assert not _free_atoms(prepare_structure(zincblende))
