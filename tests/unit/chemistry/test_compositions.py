"""Reading formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from sluice.chemistry.compositions import Compositions, FormulaError, parse_formula, read_formulas, symbols
from sluice.crystals import Crystals

SYMBOLS = symbols()[1:104]


def as_dict(compositions, row=0):
    part = compositions[[row]]
    return {symbols()[z]: amount for z, amount in zip(part.numbers, part.amounts, strict=True)}


@pytest.mark.parametrize(
    ("formula", "amounts"),
    [
        ("SrTiO3", {"Sr": 1, "Ti": 1, "O": 3}),
        ("NaN", {"Na": 1, "N": 1}),
        ("Al0.5CoCrFeNi", {"Al": 0.5, "Co": 1, "Cr": 1, "Fe": 1, "Ni": 1}),
        ("O.5Fe", {"O": 0.5, "Fe": 1}),
        ("Ca3(PO4)2", {"Ca": 3, "P": 2, "O": 8}),
        ("K4[Fe(CN)6]·3H2O", {"K": 4, "Fe": 1, "C": 6, "N": 6, "H": 6, "O": 3}),
        ("CuSO4*5H2O", {"Cu": 1, "S": 1, "O": 9, "H": 10}),
        ("CaSO4·0.5H2O", {"Ca": 1, "S": 1, "O": 4.5, "H": 1}),
        ("(Fe0.5Ni0.5)2{SO4}1.5", {"Fe": 1, "Ni": 1, "S": 1.5, "O": 6}),
        ("D2O", {"H": 2, "O": 1}),
        ("LiT", {"Li": 1, "H": 1}),
        ("Fe₂O₃", {"Fe": 2, "O": 3}),
        (" Fe2 O3\n", {"Fe": 2, "O": 3}),
        ("CH3CH2OH", {"C": 2, "H": 6, "O": 1}),
        ("Fe0O2", {"O": 2}),
        ("O0.555600Pr0.222200Pt0.222200", {"O": 0.5556, "Pr": 0.2222, "Pt": 0.2222}),
    ],
)
def test_formulas(formula, amounts):
    # Among others: rows must not get mixed up whatever path reads them.
    compositions, problems = read_formulas(["MgO", formula, "", formula, "Cs2"])
    assert problems == ["", "", "empty formula", "", ""]
    for row in (1, 3):
        assert as_dict(compositions, row) == pytest.approx(amounts)
    assert as_dict(compositions, 4) == {"Cs": 2}
    assert len(compositions) == 5 and compositions.sizes[2] == 0


@pytest.mark.parametrize(
    ("formula", "problem"),
    [
        ("", "empty formula"),
        ("Xx2O", "'Xx' is no element"),
        ("fe2", "'f' cannot be read"),
        ("2Fe", "starts with an element"),
        ("Fe(OH", r"a '\)' is missing"),
        ("Fe)2", "closes nothing"),
        ("Fe(O]", "closes nothing"),
        ("Fe2.5.3", "follows no element"),
        ("Fe3+", r"'\+' cannot be read"),
        ("Fe0", "every amount is zero"),
        ("()", "holds no element"),
        ("Fe1e3", "'e' cannot be read"),
        ("Fé", "'é' cannot be read"),
        ("Fe9999999999999999", "too large"),
        (float("nan"), "keep_default_na=False"),
        (None, "keep_default_na=False"),
    ],
)
def test_what_is_no_formula_is_said(formula, problem):
    with pytest.raises(FormulaError, match=problem):
        parse_formula(formula)
    compositions, problems = read_formulas(["NaCl", formula])
    assert problems[0] == "" and problems[1]
    assert compositions.sizes.tolist() == [2, 0]
    with pytest.raises(FormulaError, match="formula 2: "):
        Compositions.from_formulas(["NaCl", formula])


def test_no_formulas():
    compositions, problems = read_formulas([])
    assert len(compositions) == 0 and problems == [] and compositions.formulas() == []


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(SYMBOLS), st.one_of(st.integers(1, 9999), st.sampled_from([0.5, 0.25, 12.75]))),
            min_size=1,
            max_size=6,
        ),
        min_size=1,
        max_size=8,
    )
)
def test_equal_to_pymatgen(rows):
    formulas = ["".join(f"{s}{n if n != 1 else ''}" for s, n in row) for row in rows]
    found = Compositions.from_formulas(formulas)
    for i, formula in enumerate(formulas):
        assert as_dict(found, i) == pytest.approx(Composition(formula).as_dict())


def test_writing_and_reading_again():
    formulas = ["O3TiSr", "Al0.5CrFeCoNi", "ClCs", "NNa"]
    assert Compositions.from_formulas(formulas).formulas() == formulas


@pytest.mark.parametrize(
    ("formula", "counts"),
    [
        ("Fe4O6", {"O": 3, "Fe": 2}),
        ("Al0.5CoCrFeNi", {"Al": 1, "Co": 2, "Cr": 2, "Fe": 2, "Ni": 2}),
        ("La1.85Sr0.15CuO4", {"La": 37, "Sr": 3, "Cu": 20, "O": 80}),
        ("Fe0.333333O0.666667", {"Fe": 333333, "O": 666667}),
        ("Fe100000000O0.5", {"Fe": 1_000_000, "O": 1}),
    ],
)
def test_smallest_integers(formula, counts):
    found = Compositions.from_formulas(["Na2Cl2", formula])
    names = [symbols()[z] for z in found.numbers.tolist()]
    assert dict(zip(names[2:], found.counts()[2:].tolist(), strict=True)) == counts
    assert found.counts()[:2].tolist() == [1, 1]


def test_selection_and_fractions():
    found = Compositions.from_formulas(["SrTiO3", "Fe", "MgO", "Fe2O3"])[np.array([3, 0])]
    assert found.formulas() == ["O3Fe2", "O3TiSr"]
    assert found.fractions == pytest.approx([0.6, 0.4, 0.6, 0.2, 0.2])
    sizes = {entries.shape[1]: rows.tolist() for rows, entries in found.by_size()}
    assert sizes == {2: [0], 3: [1]}


def test_from_crystals():
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    iron = Structure(Lattice.cubic(2.9), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    found = Compositions.from_crystals(Crystals.from_structures([rock_salt, iron]))
    assert found.formulas() == ["Na4Cl4", "Fe2"]
    assert len(Compositions.from_crystals(Crystals.empty())) == 0
