"""Protocols, tiers and grids: monotone, complete, independent of how a cell is written."""

import itertools

import numpy as np
import pytest
from espresso_stand_ins import WARNINGS, silicon
from pymatgen.core import Lattice, Structure

from sluice.config import SUPPORTED_ELEMENTS
from sluice.errors import SluiceError
from sluice.validate.espresso.pseudos import pseudo_table
from sluice.validate.espresso.sets import (
    PROTOCOLS,
    TIERS,
    calculation_settings,
    k_grid,
    prepare_structure,
    space_group_number,
    tier_for,
    tier_named,
)

pytestmark = [pytest.mark.filterwarnings(w) for w in WARNINGS]
OPTIONS = {"protocol": "fast", "tier": "T50", "spin_elements": ("Fe", "Ni")}


@pytest.mark.parametrize("element", SUPPORTED_ELEMENTS)
def test_every_supported_element_has_a_tier_that_covers_it(element):
    tier = tier_for([element], "balanced")
    row = pseudo_table()[element]
    assert tier.ecutwfc_ry >= row.ecutwfc_ry
    assert tier.ecutrho_ry >= row.ecutrho_ry


def test_the_hardest_element_decides():
    assert tier_for(["Na", "Cl"], "balanced").name == "T40"
    assert tier_for(["Na", "Cl", "F"], "balanced").name == "T45"
    assert tier_for(["Na", "Cl", "F", "O"], "balanced").name == "T50"
    assert tier_for(["K", "Mg", "F"], "fast").ecutwfc_ry == pytest.approx(48.0)
    assert tier_for(["Fe"], "balanced").ecutrho_ry == 1080.0


def test_an_unknown_tier_or_element_is_refused():
    with pytest.raises(SluiceError, match="T999"):
        tier_named("T999", "fast")
    with pytest.raises(SluiceError, match="Xx"):
        tier_for(["Xx"], "fast")


def test_protocols_get_stricter():
    lines = [PROTOCOLS[name] for name in ("fast", "balanced", "stringent")]
    for loose, strict in itertools.pairwise(lines):
        assert strict.cutoff_factor > loose.cutoff_factor
        assert strict.kspacing_per_angstrom < loose.kspacing_per_angstrom
        assert strict.scf_threshold_ry_per_atom < loose.scf_threshold_ry_per_atom
        assert strict.relax_kspacing_per_angstrom >= strict.kspacing_per_angstrom
    assert all(later > earlier for earlier, later in itertools.pairwise(TIERS.values()))


def test_grids_are_no_coarser_than_the_spacing():
    lattice = Lattice.orthorhombic(3.0, 5.0, 20.0)
    grid = k_grid(lattice, 0.25)
    for length, divisions in zip(lattice.reciprocal_lattice.abc, grid, strict=True):
        assert length / divisions <= 0.25 * 1.001
    assert grid[2] == 2
    # The last digits of a lattice do not change a grid: 2π/(0.25 a) is exactly 8 here.
    a = 2 * np.pi / (0.25 * 8)
    assert k_grid(Lattice.cubic(a * (1 - 1e-6)), 0.25) == k_grid(Lattice.cubic(a * (1 + 1e-6)), 0.25) == (8, 8, 8)


def test_settings_say_all_that_decides_the_energy():
    settings = calculation_settings(silicon(), **OPTIONS)
    assert settings.starting_moments == {}
    assert settings.kpoints == k_grid(silicon().lattice, 0.35)
    assert (settings.ecutwfc_ry, settings.ecutrho_ry) == (40.0, 320.0)
    assert type(settings)(**settings.model_dump(mode="json")) == settings


def test_only_stated_elements_start_spin_polarized():
    structure = Structure(Lattice.cubic(2.9), ["Fe", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert calculation_settings(structure, **OPTIONS).starting_moments == {"Fe": 3.0}
    none = calculation_settings(structure, protocol="fast", tier="T50", spin_elements=())
    assert none.starting_moments == {}
    every = calculation_settings(structure, **OPTIONS, magnetic=True)
    assert set(every.starting_moments) == {"Fe", "Al"}


@pytest.mark.parametrize("setting", ["true", "false"])
@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_no_symmetry_is_answered_alike_whichever_way_spglib_reports_it(setting, monkeypatch):
    monkeypatch.setenv("SPGLIB_OLD_ERROR_HANDLING", setting)  # ASE's FixSymmetry sets it to false
    monkeypatch.setattr("spglib.error.OLD_ERROR_HANDLING", setting == "true", raising=False)
    stacked = Structure(Lattice.cubic(4.0), ["Na", "Na"], [[0.0] * 3, [0.0] * 3])
    with pytest.raises(SluiceError, match="no symmetry found"):
        prepare_structure(stacked)
    assert space_group_number(stacked) == 0


def test_molecules_are_calculated_at_gamma():
    box = Structure(Lattice.orthorhombic(8, 8.5, 9), ["O", "O"], [[0.5, 0.5, 0.43], [0.5, 0.5, 0.57]])
    settings = calculation_settings(box, **OPTIONS, relax="ions", box=True, total_moment=2.0, nosym=True, magnetic=True)
    assert settings.kpoints is None
    assert settings.relax_kpoints is None
    assert settings.total_moment == 2.0


def test_the_prepared_structure_does_not_depend_on_the_cell_it_came_in():
    primitive = prepare_structure(silicon())
    conventional = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.84 * np.sqrt(2)), ["Si"], [[0, 0, 0]])
    again = prepare_structure(conventional)
    assert len(primitive) == len(again) == 2
    assert again.lattice.matrix == pytest.approx(primitive.lattice.matrix, abs=1e-6)
    assert space_group_number(again) == 227
