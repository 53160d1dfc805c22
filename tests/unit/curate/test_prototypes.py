"""The prototypes are what the table says they are."""

from itertools import permutations
from math import perm

import numpy as np
import pandas as pd
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from pymatgen.symmetry.groups import SpaceGroup

from sluice.config import PROTOTYPE_SPACE_GROUPS, Chemistry
from sluice.curate.lattice_guess import guess_lattice_constants
from sluice.curate.prototypes import (
    PROTOTYPES,
    crystal_id,
    decorate,
    decorations,
    equivalent_orders,
    find_prototypes,
    formulas,
    primitive_cell,
)
from sluice.experiments.mp_structures import TABLE, read_structures, read_table
from sluice.models.orbits import decompose, grid_index, space_group

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # pymatgen calling spglib
by_prototype = pytest.mark.parametrize("prototype", PROTOTYPES, ids=lambda p: p.name)
HALF, QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
INTERNATIONAL_TABLES = {
    216: {"a": (0, 0, 0), "b": HALF, "c": QUARTER, "d": (0.75, 0.75, 0.75)},
    221: {"a": (0, 0, 0), "b": HALF, "c": (0, 0.5, 0.5), "d": (0.5, 0, 0)},
    225: {"a": (0, 0, 0), "b": HALF, "c": QUARTER, "d": (0, 0.25, 0.25), "e": (0.25, 0, 0)},
}
# Lattice constants in Å as reported by experiment (K2PtCl6: Rb2SnCl6's neighbour K2SnCl6 is 9.99).
KNOWN = [
    ("perovskite", ("K", "Mg", "F"), 3.99),
    ("perovskite", ("Sr", "Ti", "O"), 3.905),
    ("half-heusler", ("Li", "Al", "Si"), 5.93),
    ("heusler", ("Mn", "Al", "Cu"), 5.95),
    ("K2PtCl6", ("Sn", "K", "Cl"), 9.99),
    ("Mg3NF3", ("N", "F", "Mg"), 4.22),
    ("quaternary-heusler", ("Li", "Sn", "Mg", "Pd"), 6.42),
    ("elpasolite", ("Na", "Al", "K", "F"), 8.12),
]
# Orders of the sites that are one crystal, by hand: a and b of F-centred cells change places under a shift by half a
# diagonal; under a quarter of it a → c → b → d → a in 216, and the inversion exchanges c and d.
ONE_CRYSTAL = {
    "perovskite": 1, "K2PtCl6": 1, "Mg3NF3": 1, "half-heusler": 2, "heusler": 2, "MgZrF6": 2, "Ca6LiGe": 2,
    "elpasolite": 2, "quaternary-heusler": 8,
}  # fmt: skip


def test_the_configuration_lists_the_table():
    for sites, groups in PROTOTYPE_SPACE_GROUPS.items():
        assert {p.name: p.space_group for p in PROTOTYPES if len(p.sites) == sites} == groups


@by_prototype
def test_space_group_sites_and_stoichiometry(prototype):
    sites = len(prototype.sites)
    given = [(("Li", "Al", "O", "Rb")[:sites], 6.0), (("Cs", "F", "Mg", "Zn")[:sites], 7.5)]
    crystals = decorate(prototype, [chosen for chosen, _ in given], np.array([length for _, length in given]))
    for i, (chosen, length) in enumerate(given):
        structure = crystals.structure(i)
        found = SpacegroupAnalyzer(structure, symprec=0.01)
        assert found.get_space_group_number() == prototype.space_group
        assert found.get_primitive_standard_structure().num_sites == structure.num_sites  # it is primitive
        conventional = found.get_conventional_standard_structure()
        assert conventional.lattice.a == pytest.approx(length)
        counts = conventional.composition.get_el_amt_dict()
        assert [counts[e] for e in chosen] == list(prototype.multiplicities)


@by_prototype
def test_wyckoff_letters_are_those_of_the_international_tables(prototype):
    for letter, site in zip(prototype.wyckoff, prototype.sites, strict=True):
        assert INTERNATIONAL_TABLES[prototype.space_group][letter] == site


@by_prototype
def test_coordinates_lie_on_the_quarter_grid(prototype):
    quarters = 4 * np.array(prototype.sites)
    assert np.array_equal(quarters, np.round(quarters))


@by_prototype
def test_exactly_the_equivalent_orders_are_one_crystal(prototype):
    matcher = StructureMatcher(ltol=1e-4, stol=1e-4, angle_tol=0.01, scale=False, primitive_cell=False)
    chosen = ("Na", "Mg", "Cl", "Zn")[: len(prototype.sites)]
    one = decorate(prototype, [chosen], np.array([6.0])).structure(0)
    orders = equivalent_orders(prototype)
    assert len(orders) == ONE_CRYSTAL[prototype.name]
    for order in permutations(range(len(chosen))):
        other = decorate(prototype, [tuple(chosen[k] for k in order)], np.array([6.0])).structure(0)
        assert matcher.fit(one, other) == (order in orders)


@by_prototype
def test_decorations_are_distinct_and_complete(prototype):
    elements = ("O", "Li", "Mg", "Al", "F")
    found = decorations(prototype, elements)
    orders = equivalent_orders(prototype)
    assert len(set(found)) * len(orders) == len(found) * len(orders) == perm(5, len(prototype.sites))
    assert {tuple(chosen[k] for k in order) for chosen in found for order in orders} == set(
        permutations(elements, len(prototype.sites))
    )
    assert found == decorations(prototype, tuple(reversed(elements)))
    assert len({crystal_id(prototype, t) for t in found}) == len(found)


@by_prototype
def test_formulas_are_those_of_the_crystals(prototype):
    found = decorations(prototype, ("O", "Li", "Mg", "Al"))
    assert formulas(prototype, found) == decorate(prototype, found, np.full(len(found), 6.0)).reduced_formulas()


@by_prototype
def test_contacts_are_the_shortest_distances(prototype):
    cell = primitive_cell(prototype)
    chosen = ("Na", "Mg", "Cl", "Zn")[: len(prototype.sites)]
    structure = decorate(prototype, [chosen], np.array([5.0])).structure(0)
    for i in range(len(chosen)):
        for j in range(len(chosen)):
            distances = [
                neighbour.nn_distance
                for k in np.flatnonzero(cell.roles == i)
                for neighbour in structure.get_neighbors(structure[int(k)], 5.2)
                if neighbour.specie.symbol == chosen[j]
            ]
            assert cell.contacts[i, j] * 5.0 == pytest.approx(min(distances))


@pytest.mark.parametrize(("name", "chosen", "length"), KNOWN)
def test_guessed_lattice_constants_lie_within_what_the_scan_covers(name, chosen, length):
    (prototype,) = find_prototypes((name,), (216, 221, 225))
    guess = guess_lattice_constants(prototype, [chosen])[0]
    assert abs(length / guess - 1) < 0.25


def test_find_prototypes_by_name_and_space_group():
    assert [p.name for p in find_prototypes((), (216,))] == ["half-heusler"]
    assert find_prototypes(("heusler",), (216, 221)) == []
    assert [p.name for p in find_prototypes((), Chemistry().space_groups)] == list(PROTOTYPE_SPACE_GROUPS[3])
    assert [p.name for p in find_prototypes(("heusler", "elpasolite"), (225,))] == ["heusler", "elpasolite"]


def test_nothing_to_decorate():
    assert len(decorate(PROTOTYPES[0], [], np.zeros(0))) == 0


def _arrangement(number, points):
    """A canonical form of quarter-grid points under the space group, shifts of its origin and inversion."""
    operations = [
        (np.round(o.rotation_matrix).astype(int), np.round(4 * o.translation_vector).astype(int))
        for o in SpaceGroup.from_int_number(number).symmetry_ops
    ]
    shifts = ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)) if number == 216 else ((0, 0, 0), (2, 2, 2))
    forms = []
    for shift in shifts:
        for sign in (1, -1):
            moved = [(sign * np.array(p) + shift) % 4 for p in points]
            forms.append(tuple(sorted(min(tuple((r @ p + t) % 4) for r, t in operations) for p in moved)))
    return number, min(forms)


def test_the_table_holds_every_arrangement_with_known_members(sluice_data):
    """Against the Materials Project's cubic ternaries on the quarter grid, those with an ICSD flag."""
    table = sluice_data / "mp_structures" / "mp_cubic_ternary.csv.gz"
    if not table.exists():
        pytest.skip(f"{table} is not there")
    data = pd.read_csv(table)
    data = data[(data.special == 1) & (data.synth == 1)]
    columns = [
        [tuple(np.round(4 * np.array(x.split(), float)).astype(int) % 4) for x in data[f"xyz{k}"]] for k in (1, 2, 3)
    ]
    distinct = set(zip(data.spacegroup, *columns, strict=True))
    found = {_arrangement(number, points) for number, *points in distinct}
    ours = {
        _arrangement(p.space_group, [tuple(int(4 * x) for x in site) for site in p.sites])
        for p in PROTOTYPES
        if len(p.sites) == 3
    }
    assert ours == found


def test_the_quaternaries_hold_most_known_members(sluice_data):
    """171 of the 177 with an ICSD flag among the Materials Project's cubic quaternaries on the quarter grid."""
    folder = sluice_data / "mp_structures"
    if not (folder / TABLE).exists():
        pytest.skip(f"{folder / TABLE} is not there")
    table = read_table(folder).set_index("material_id")
    groups = table["spacegroup"].fillna(table["spacegroup_spglib"])
    known = table.index[(table["n_elements"] == 4) & (table["synth"] == 1) & groups.isin((216, 221, 225))]
    sites = decompose(read_structures(folder, known, 1000)[1], (216, 221, 225), 4)
    ours = {
        (p.space_group, *_orbits(p.space_group, grid_index(np.rint(4 * np.array(p.sites)).astype(int))))
        for p in PROTOTYPES
    }
    held = [
        (n, *_orbits(n, points)) in ours for n, points in zip(sites.space_groups.tolist(), sites.points, strict=True)
    ]
    assert (sum(held), len(held)) == (171, 177)


def _orbits(number, points):
    """Which orbits these are, whatever their order, in the first of the equivalent descriptions."""
    group = space_group(number)
    return min(tuple(sorted(row)) for row in group.equivalents[:, group.orbit_of[points]].tolist())
