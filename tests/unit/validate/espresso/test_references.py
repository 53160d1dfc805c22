"""Every supported element has a reference that looks like what its prototype says."""

import math

import pytest

from sluice.config import SUPPORTED_ELEMENTS
from sluice.errors import SluiceError
from sluice.validate.espresso.references import reference_structure, reference_table
from sluice.validate.espresso.run import check_geometry
from sluice.validate.espresso.sets import space_group_number

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib


def test_the_table_has_exactly_the_supported_elements():
    assert tuple(reference_table()) == SUPPORTED_ELEMENTS


@pytest.mark.parametrize("element", SUPPORTED_ELEMENTS)
def test_structure_and_prototype_agree(element):
    reference = reference_structure(element)
    assert {site.specie.symbol for site in reference.structure} == {element}
    check_geometry(reference.structure)
    if reference.box:
        assert reference.relax == "ions"
    else:
        # The written digits keep the symmetry.
        assert space_group_number(reference.structure) == reference.space_group
        assert reference.above_ground_state_ev_per_atom >= 0
        assert reference.above_ground_state_ev_per_atom < 0.06
    assert reference.source


def test_molecules_have_explicit_spin():
    assert {e for e, r in reference_table().items() if r.box} == {"H", "N", "O", "F", "S", "Cl"}
    oxygen = reference_structure("O")
    assert oxygen.total_moment == 2.0
    assert oxygen.magnetic
    assert oxygen.nosym
    for element in ("H", "N", "F", "Cl", "S"):
        assert not reference_structure(element).magnetic


def test_ferromagnets_are_magnetic_whatever_the_campaign_says():
    assert {e for e, r in reference_table().items() if r.magnetic} == {"Cr", "Mn", "Fe", "Co", "Ni", "O"}


def test_what_stands_in_for_something_else_says_so():
    for element in ("O", "S", "Mn", "La", "P", "Cl"):
        assert reference_structure(element).assumption
    for element in ("Na", "Mg", "Al", "Si"):
        assert reference_structure(element).assumption is None


def test_an_element_without_reference_is_named():
    with pytest.raises(SluiceError, match="'U'"):
        reference_structure("U")


def test_unknown_heights_above_the_ground_state_are_nan():
    assert math.isnan(reference_structure("N").above_ground_state_ev_per_atom)
    assert reference_structure("Al").above_ground_state_ev_per_atom == 0.0
