"""Encodings of compositions and which properties of a good descriptor each has."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.chemistry.compositions import Compositions, atomic_numbers, symbols
from sluice.chemistry.descriptor_properties import descriptor_properties
from sluice.chemistry.encodings import (
    ELEMENTS_85,
    ELEMENTS_86,
    ELEMENTS_87,
    ElementEmbedding,
    ElementFractions,
    EncodingError,
    Magpie,
    OneHotCounts,
    magpie_table,
    make_encoding,
)

FORMULAS = [
    *("NaCl", "MgO", "MgO2", "Fe2O3", "Fe3O4", "SrTiO3", "BaTiO3", "KMgF3", "K2PtCl6", "LiFePO4", "Ca3P2O8"),
    *("AlN", "Al2O3", "Cu", "Si", "GaAs", "InAs", "YBa2Cu3O7", "CsPbBr3", "MoS2", "WSe2", "TiO2", "Ti2O3"),
]


LARGE = [*("Fe13O17", "Nb22O54", "Ca97Cu98O99", "Al98Mg99", "Li99O", "V12O29", "Mg17Al12", "H89C60N7O31")]


def embedding():
    rng = np.random.default_rng(0)
    return ElementEmbedding(rng.normal(size=(119, 24)).astype(np.float32))


def test_lists_of_elements():
    assert [len(ELEMENTS_85), len(ELEMENTS_86), len(ELEMENTS_87)] == [85, 86, 87]
    assert "Kr" in ELEMENTS_86 and "Kr" not in ELEMENTS_85 and "He" in ELEMENTS_87
    assert list(ELEMENTS_86) == sorted(ELEMENTS_86, key=symbols().index)
    assert ELEMENTS_86[-1] == "Pu"


@pytest.mark.parametrize(
    ("encoding", "holds"),
    [
        # invariant, unique, smooth, transformable
        (OneHotCounts(), (True, True, False, True)),
        (OneHotCounts(ELEMENTS_87), (True, True, False, True)),
        (ElementFractions(), (True, True, True, True)),
        # The mode jumps where another element becomes the most frequent one.
        (Magpie(), (True, True, False, False)),
        (embedding(), (True, True, True, False)),
    ],
    ids=["onehot 85x8", "onehot 87x8", "fractions", "magpie", "embedding"],
)
def test_which_properties_hold(encoding, holds):
    # The matrices end at eight atoms of an element.
    formulas = FORMULAS if encoding.name == "onehot" else FORMULAS + LARGE
    found = descriptor_properties(encoding, Compositions.from_formulas(formulas))
    print(encoding.name, found)
    assert (found.invariant, found.unique, found.smooth, found.transformable) == holds


def test_degeneracy_is_counted():
    """Vectors of zeros put three compositions on one point: three pairs."""
    table = np.zeros((119, 2), dtype=np.float32)
    found = descriptor_properties(ElementEmbedding(table), Compositions.from_formulas(["NaCl", "MgO", "Fe2O3"]))
    assert not found.unique and found.collisions == 3


def test_one_hot():
    encoding = OneHotCounts()
    values = encoding.encode(Compositions.from_formulas(["Fe4O6"]))
    assert values.shape == (1, 85, 8) and values.sum() == 2
    assert values[0, ELEMENTS_85.index("Fe"), 1] == 1 and values[0, ELEMENTS_85.index("O"), 2] == 1
    noisy = np.clip(values + np.random.default_rng(0).uniform(-0.4, 0.4, values.shape), 0, 1)
    assert encoding.decode(noisy).formulas() == ["O3Fe2"]
    assert encoding.decode(np.zeros((1, 85, 8))).sizes.tolist() == [0]
    wrong = encoding.problems(Compositions.from_formulas(["NaCl", "KrF2", "Ca10P6O26", "Al0.1O"]))
    assert wrong[0] == "" and "Kr is none of the 85" in wrong[1]
    assert "13 atoms of O, at most 8" in wrong[2] and "10 atoms of O" in wrong[3]


def test_fractions_back_to_formulas():
    formulas = ["NaCl", "Fe2O3", "Al0.5CrFeCoNi", "O7Ca2Ti3Y5"]
    encoding = ElementFractions()
    found = encoding.decode(encoding.encode(Compositions.from_formulas(formulas)))
    assert found.formulas() == ["NaCl", "O3Fe2", "AlCr2Fe2Co2Ni2", "O7Ca2Ti3Y5"]
    assert encoding.encode(Compositions.from_formulas(formulas)).sum(axis=1) == pytest.approx(1)


def integers(numbers: list[list[int]]) -> Compositions:
    """Compositions of hydrogen, lithium … with these numbers of atoms, none where it is zero."""
    places = [atomic_numbers()[symbol] for symbol in ELEMENTS_86]
    return Compositions.from_rows(
        [{z: float(count) for z, count in zip(places, row, strict=False) if count} for row in numbers]
    )


def assert_decoded(compositions: Compositions) -> None:
    encoding = ElementFractions()
    found = encoding.decode(encoding.encode(compositions))
    assert np.array_equal(found.offsets, compositions.offsets) and np.array_equal(found.numbers, compositions.numbers)
    assert np.array_equal(found.amounts, compositions.counts())


def test_fractions_of_every_pair_of_counts_below_a_hundred():
    assert_decoded(integers([[a, b] for a in range(1, 100) for b in range(1, 100)]))


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=86).filter(any), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_fractions_of_any_integers_below_a_hundred(numbers):
    assert_decoded(integers(numbers))


def test_fractions_that_no_integers_below_a_thousand_make():
    """They stay what they are, relative to the smallest one; a share of nothing is no element."""
    encoding = ElementFractions(("H", "O", "Fe"))
    amounts = encoding.decode(np.array([[0, 1000 / 2001, 1001 / 2001], [0, 0, 0], [5e-5, 1 / 3, 2 / 3]])).amounts
    assert amounts == pytest.approx([1, 1.001, 1, 2], rel=1e-6)


def test_a_formula_of_many_elements_is_written_in_six_orders(monkeypatch):
    """Of the 20! orders of twenty elements, too."""
    seen = []
    real = Compositions.from_formulas
    monkeypatch.setattr(Compositions, "from_formulas", lambda texts: seen.append(list(texts)) or real(texts))
    compositions = integers([list(range(1, 21))])
    assert descriptor_properties(ElementFractions(), compositions).invariant
    assert [len(texts) for texts in seen] == [6] and len(set(seen[0])) == 5, "as it is, and in five orders"


def test_magpie_equals_matminer():
    """Matminer 0.10.1, ``ElementProperty.from_preset("magpie", impute_nan=True)``."""
    expected = pd.read_csv(Path(__file__).parent / "matminer_magpie.csv", index_col=0, keep_default_na=False)
    found = Magpie().encode(Compositions.from_formulas(list(expected.columns)))
    assert list(expected.index) == Magpie.names()
    assert np.allclose(found, expected.to_numpy().T, rtol=1e-5, atol=1e-5)


def test_magpie_has_no_numbers_beyond_berkelium():
    names, table = magpie_table()
    assert len(names) == 22 and np.isfinite(table[1:98]).all()
    assert "Cf is none of the elements that Magpie tabulates" in Magpie().problems(Compositions.from_formulas(["CfO2"]))


@pytest.mark.parametrize("encoding", [OneHotCounts(), ElementFractions(("H", "O")), Magpie(), embedding()])
def test_plain_values_make_the_same_encoding_again(encoding):
    again = make_encoding(encoding.plain())
    compositions = Compositions.from_formulas(["H2O", "H2O2"])
    assert np.array_equal(again.encode(compositions), encoding.encode(compositions))
    assert again.shape == encoding.encode(compositions).shape[1:]


def test_bad_encodings():
    with pytest.raises(EncodingError, match="magpie: this encoding cannot be turned back"):
        Magpie().decode(np.zeros((1, 132)))
    with pytest.raises(EncodingError, match="'petti' is no encoding; allowed are onehot"):
        make_encoding({"name": "petti"})
    with pytest.raises(EncodingError, match="different symbols"):
        ElementFractions(("H", "H"))
    with pytest.raises(EncodingError, match="119 rows"):
        ElementEmbedding(np.zeros((5, 2)))
    with pytest.raises(EncodingError, match="fractions and counts"):
        ElementEmbedding(np.zeros((119, 2)), by="shares")
    with pytest.raises(EncodingError, match="magpie: "):
        make_encoding({"name": "magpie", "elements": []})


def test_embedding_counts_atoms_of_the_smallest_formula():
    encoding = ElementEmbedding(np.arange(119, dtype=np.float32)[:, None], by="counts")
    assert encoding.encode(Compositions.from_formulas(["Fe4O6"]))[0, 0] == 2 * 26 + 3 * 8


def test_no_compositions():
    for encoding in (OneHotCounts(), ElementFractions(), Magpie(), embedding()):
        assert encoding.encode(Compositions.from_formulas([])).shape == (0, *encoding.shape)
