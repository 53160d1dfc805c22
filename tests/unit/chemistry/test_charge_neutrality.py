"""The rule must be smact's own."""

import itertools

import pytest
from smact.screening import smact_validity

from sluice.chemistry.charge_neutrality import (
    METALS_ONLY,
    NOT_NEUTRAL,
    WRONG_ORDER,
    charge_problem,
    is_charge_neutral,
)
from sluice.config import ChargeSettings

ELEMENTS = ("Na", "Mg", "Al", "Fe", "O", "S", "Cl", "Br")
FORMULAS = [
    f"{a}{b}{c}{n}" for a, b, c in itertools.combinations(ELEMENTS, 3) for n in (1, 2, 3)
]  # 168 formulas, about half of them valid


@pytest.mark.parametrize("table", ["icsd24", "smact14"])
@pytest.mark.parametrize(("pauling", "alloys"), [(True, False), (False, False), (True, True)])
def test_equal_to_smact(table, pauling, alloys):
    settings = ChargeSettings(oxidation_states=table, use_pauling=pauling, include_alloys=alloys)
    expected = [
        smact_validity(f, use_pauling_test=pauling, include_alloys=alloys, oxidation_states_set=table) for f in FORMULAS
    ]
    assert [is_charge_neutral(f, settings) for f in FORMULAS] == expected
    assert [charge_problem(f, settings) == "" for f in FORMULAS] == expected
    assert 0 < sum(expected) < len(expected)


def test_reasons_tell_what_is_wrong():
    settings = ChargeSettings()
    assert charge_problem("KMgF3", settings) == ""
    assert charge_problem("KMgF4", settings) == NOT_NEUTRAL
    assert charge_problem("NaMgAl", settings) == METALS_ONLY
    assert charge_problem("NaMgAl", ChargeSettings(include_alloys=True)) == ""
    # Cl(+1) beside S(-2) balances, but chlorine is the more electronegative.
    assert charge_problem("NaClS", settings) == WRONG_ORDER
    assert charge_problem("NaClS", ChargeSettings(use_pauling=False)) == ""


def test_elements_that_smact_has_no_states_for_are_a_reason_not_a_crash():
    assert charge_problem("NaArF", ChargeSettings()) == NOT_NEUTRAL
