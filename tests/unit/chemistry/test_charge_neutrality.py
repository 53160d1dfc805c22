"""The rule must be smact's own, and exact where smact gives up."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from smact import element_dictionary
from smact.screening import smact_validity

from sluice.chemistry import charge_neutrality
from sluice.chemistry.charge_assignment import assign_charges
from sluice.chemistry.charge_neutrality import (
    METALS_ONLY,
    NOT_NEUTRAL,
    WRONG_ORDER,
    ChargeRule,
    charge_problems,
    smact_valid,
)
from sluice.chemistry.compositions import Compositions, FormulaError, symbols
from sluice.chemistry.oxidation_states import TABLES, is_mixed_valence, oxidation_states
from sluice.config import ChargeSettings
from sluice.errors import SluiceError

ELEMENTS = ("Na", "Mg", "Al", "Fe", "O", "S", "Cl", "Br")
FORMULAS = [
    f"{a}{b}{c}{n}" for a, b, c in itertools.combinations(ELEMENTS, 3) for n in (1, 2, 3)
]  # 168 formulas, about half of them valid
# Noble gases without states or electronegativity, Pm without the latter, equal electronegativities (Pd, Ru; C, Se).
MANY = (
    *("H", "Li", "K", "Ca", "Al", "Si", "Ti", "V", "Mn", "Fe", "Cu", "Y", "La", "C", "N", "O", "F", "P", "S", "Cl"),
    *("Se", "Te", "Pd", "Ru", "Bi", "Sn", "I", "Xe", "Pm", "Ar", "W", "Ce", "Eu", "Fr", "Lr"),
)
VALENCES = element_dictionary()


def problem(formula, settings):
    return charge_problems(Compositions.from_formulas([formula]), settings)[0]


def by_smact(formula, table, **options):
    """smact's answer; None where it gives up."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = smact_validity(formula, oxidation_states_set=None if table == "default" else table, **options)
    return None if any("too many combinations" in str(w.message) for w in caught) else answer


@pytest.mark.parametrize("table", ["icsd24", "smact14"])
@pytest.mark.parametrize(("pauling", "alloys"), [(True, False), (False, False), (True, True)])
def test_equal_to_smact(table, pauling, alloys):
    settings = ChargeSettings(oxidation_states=table, use_pauling=pauling, include_alloys=alloys)
    expected = [
        smact_validity(f, use_pauling_test=pauling, include_alloys=alloys, oxidation_states_set=table) for f in FORMULAS
    ]
    found = charge_problems(Compositions.from_formulas(FORMULAS), settings) == ""
    assert found.tolist() == expected
    assert 0 < sum(expected) < len(expected)


formulas = st.lists(
    st.lists(st.tuples(st.sampled_from(MANY), st.integers(1, 9)), min_size=1, max_size=4, unique_by=lambda e: e[0]),
    min_size=1,
    max_size=6,
).map(lambda rows: ["".join(f"{s}{n}" for s, n in row) for row in rows])


@settings(max_examples=60, deadline=None)
@given(formulas, st.sampled_from(TABLES), st.booleans(), st.booleans())
def test_equal_to_smact_everywhere(texts, table, pauling, alloys):
    found = smact_valid(Compositions.from_formulas(texts), table=table, use_pauling=pauling, include_alloys=alloys)
    assert found.tolist() == [by_smact(t, table, use_pauling_test=pauling, include_alloys=alloys) for t in texts]


def brute_force(formula, table, *, pauling, mixed):
    """All assignments, site by site where states may be mixed, and what the definition says of each."""
    compositions = Compositions.from_formulas([formula])
    states = oxidation_states(table).states
    sites = []  # (choices, atoms, electronegativity)
    for z, count in zip(compositions.numbers.tolist(), compositions.counts().tolist(), strict=True):
        element = VALENCES[symbols()[z]]
        repeats, atoms = (count, 1) if mixed and is_mixed_valence()[z] else (1, count)
        sites += [(states[z], atoms, element.pauling_eneg)] * repeats
    for chosen in itertools.product(*(choices for choices, _, _ in sites)):
        if sum(s * atoms for s, (_, atoms, _) in zip(chosen, sites, strict=True)) != 0:
            continue
        if not pauling:
            return True
        values = [x for _, _, x in sites]
        cations = [x for s, x in zip(chosen, values, strict=True) if s > 0]
        anions = [x for s, x in zip(chosen, values, strict=True) if s < 0]
        if None not in values and max(cations, default=-1) < min(anions, default=9):
            return True
    return False


small = st.lists(
    st.tuples(st.sampled_from(["H", "Na", "Fe", "V", "Sn", "Pd", "Ru", "C", "O", "S", "Cl"]), st.integers(1, 3)),
    min_size=2,
    max_size=3,
    unique_by=lambda e: e[0],
).map(lambda row: "".join(f"{s}{n}" for s, n in row))


@settings(max_examples=40, deadline=None)
@given(small, st.sampled_from(["icsd16", "pymatgen_sp"]), st.booleans())
def test_mixed_valence_equal_to_brute_force_and_smact(formula, table, pauling):
    compositions = Compositions.from_formulas([formula])
    sites = sum(compositions.counts()[is_mixed_valence()[compositions.numbers]])
    assume(sites <= 5)  # brute force takes all combinations of their states
    found = smact_valid(compositions, table=table, use_pauling=pauling, include_alloys=False, mixed_valence=True)[0]
    assert found == brute_force(formula, table, pauling=pauling, mixed=True)
    options = {"use_pauling_test": pauling, "include_alloys": False, "mixed_valence": True}
    assert by_smact(formula, table, **options) in (found, None)


@pytest.mark.parametrize("words", [0, 1, 8])
@pytest.mark.parametrize("mixed", [False, True])
def test_short_and_long_sets_of_sums_agree(monkeypatch, words, mixed):
    rng = np.random.default_rng(5)
    texts = []
    for size in rng.integers(2, 6, 100):
        chosen = rng.choice(MANY, size, replace=False)
        texts.append("".join(f"{s}{n}" for s, n in zip(chosen, rng.integers(1, 40, size), strict=True)))
    compositions = Compositions.from_formulas(texts)
    answers = []
    for limit in (words, 2):
        monkeypatch.setattr(charge_neutrality, "MAX_WORDS", limit)
        rule = ChargeRule("smact14", mixed_valence=mixed)
        answers.append([rule.ordered(compositions), rule.neutral(compositions)])
    assert np.array_equal(answers[0], answers[1])
    assert answers[0][0].any() and not answers[0][1].all()


@pytest.mark.parametrize("formula", ["Fe20O27", "V12O29"])
def test_exact_where_smact_gives_up(formula):
    options = {"use_pauling_test": True, "include_alloys": False, "mixed_valence": True}
    assert by_smact(formula, "icsd24", **options) is None
    compositions = Compositions.from_formulas([formula])
    assert smact_valid(compositions, include_alloys=False, mixed_valence=True)[0]
    assert not smact_valid(compositions, include_alloys=False)[0]
    (assignment,) = assign_charges(compositions, mixed_valence=True)
    assert sum(state * n for states in assignment.values() for state, n in states.items()) == 0


def test_amounts_that_are_no_integers():
    """La1.85Sr0.15CuO4 is La37Sr3Cu20O80, and neutral only if copper may be Cu(2+) and Cu(3+)."""
    compositions = Compositions.from_formulas(["La1.85Sr0.15CuO4", "Na0.5Cl0.5", "Na0.5Cl"])
    assert smact_valid(compositions).tolist() == [False, True, False]
    assert smact_valid(compositions, mixed_valence=True).tolist() == [True, True, False]
    assignment = assign_charges(compositions, mixed_valence=True)[0]
    assert assignment == {"Sr": {2: 3}, "La": {3: 37}, "Cu": {2: 17, 3: 3}, "O": {-2: 80}}


def test_likely_states_are_assigned():
    compositions = Compositions.from_formulas(["Fe3O4", "CsPbBr3", "NaClS", "NaAr", "NaMgAl"])
    assert assign_charges(compositions, mixed_valence=True) == [
        {"Fe": {2: 1, 3: 2}, "O": {-2: 4}},
        {"Cs": {1: 1}, "Pb": {2: 1}, "Br": {-1: 3}},
        None,
        None,
        None,
    ]
    assert assign_charges(compositions, use_pauling=False)[2] == {"Na": {1: 1}, "S": {-2: 1}, "Cl": {1: 1}}


@settings(max_examples=80, deadline=None)
@given(small, st.sampled_from(["icsd24", "wiki"]), st.booleans(), st.booleans())
def test_an_assignment_exists_for_every_yes_and_is_neutral(formula, table, pauling, mixed):
    compositions = Compositions.from_formulas([formula])
    options = {"table": table, "use_pauling": pauling, "mixed_valence": mixed}
    (assignment,) = assign_charges(compositions, **options)
    assert (assignment is not None) == smact_valid(compositions, include_alloys=False, **options)[0]
    if assignment is None:
        return
    assert sum(state * n for states in assignment.values() for state, n in states.items()) == 0
    total = {s: sum(states.values()) for s, states in assignment.items()}
    names = [symbols()[z] for z in compositions.numbers.tolist()]
    assert total == dict(zip(names, compositions.counts().tolist(), strict=True))
    charges = [(state, VALENCES[s].pauling_eneg) for s, states in assignment.items() for state in states]
    if pauling:
        assert max((x for q, x in charges if q > 0), default=-1) < min((x for q, x in charges if q < 0), default=9)
    if not mixed:
        assert all(len(states) == 1 for states in assignment.values())


def test_reasons_tell_what_is_wrong():
    settings = ChargeSettings()
    assert problem("KMgF3", settings) == ""
    assert problem("KMgF4", settings) == NOT_NEUTRAL
    assert problem("NaMgAl", settings) == METALS_ONLY
    assert problem("NaMgAl", ChargeSettings(include_alloys=True)) == ""
    # Cl(+1) beside S(-2) balances, but chlorine is the more electronegative.
    assert problem("NaClS", settings) == WRONG_ORDER
    assert problem("NaClS", ChargeSettings(use_pauling=False)) == ""
    assert problem("Fe3O4", ChargeSettings(oxidation_states="pymatgen_sp")) == NOT_NEUTRAL
    assert problem("Fe3O4", ChargeSettings(oxidation_states="pymatgen_sp", mixed_valence=True)) == ""


def test_elements_that_smact_does_not_know_are_a_reason_not_a_crash():
    assert problem("NaArF", ChargeSettings()) == NOT_NEUTRAL
    assert problem("RfO2", ChargeSettings()) == NOT_NEUTRAL


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "states.txt"
    path.write_text("# mine\nNa 7\nCl -7\nO -2\n")
    compositions = Compositions.from_formulas(["NaCl", "NaO", "Na2O7", "NaF"])
    assert smact_valid(compositions, table=str(path)).tolist() == [True, False, True, False]
    (tmp_path / "bad.txt").write_text("Na one 1\n")
    with pytest.raises(SluiceError, match=r"not a table of oxidation states"):
        smact_valid(compositions, table=str(tmp_path / "bad.txt"))
    (tmp_path / "odd.txt").write_text("Qq 1\n")
    with pytest.raises(SluiceError, match="Qq"):
        smact_valid(compositions, table=str(tmp_path / "odd.txt"))
    with pytest.raises(SluiceError, match="no table of oxidation states; give icsd24"):
        smact_valid(compositions, table="icsd25")


def test_too_many_atoms_for_mixed_valence_are_refused():
    compositions = Compositions.from_formulas(["Fe10001O10002"])
    assert not smact_valid(compositions, table="pymatgen_sp")[0]
    with pytest.raises(FormulaError, match="up to 10000 atoms of an element, not for 10001 of Fe"):
        smact_valid(compositions, mixed_valence=True)
    with pytest.raises(FormulaError, match="up to 2000 atoms"):
        assign_charges(compositions, mixed_valence=True)


def test_no_formulas():
    assert smact_valid(Compositions.from_formulas([])).tolist() == []
    assert assign_charges(Compositions.from_formulas([])) == []
