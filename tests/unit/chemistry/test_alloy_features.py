"""Engineered features of alloys: by hand, against the published table, invariances."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from sluice.chemistry.alloy_features import (
    EXTENDED,
    PUBLISHED,
    PUBLISHED_COLUMNS,
    AlloyElements,
    alloy_features,
    parse_alloy,
    why_not,
)
from sluice.chemistry.compositions import FormulaError
from sluice.errors import BadDataError
from sluice.experiments.dvae_data import read_elements

TABLE = {
    "Fe": {"k": 170.0, "vm": 7.0, "tm": 1800.0, "vac": 8, "ar": 140.0, "chi": 1.8},
    "Ni": {"k": 180.0, "vm": 6.6, "tm": 1700.0, "vac": 10, "ar": 130.0, "chi": 1.9},
    "Al": {"k": 76.0, "vm": 10.0, "tm": 933.0, "vac": 3, "ar": 125.0, "chi": 1.6},
}
PAIRS = {"Fe,Ni": -2.0, "Al,Fe": -11.0, "Al,Ni": -22.0}


def elements(pairs=PAIRS):
    return AlloyElements.from_tables(TABLE, pairs)


def features(*formulas, names=PUBLISHED):
    table = elements()
    rows = alloy_features(table.fractions([parse_alloy(f) for f in formulas]), table, names)
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_equal_parts_by_hand():
    found = features("FeNi")[0]
    assert found["bulk_modulus_gpa"] == 175.0 and found["valence_electrons"] == 9.0
    assert found["radius_mismatch_percent"] == pytest.approx(100 * 5 / 135)
    assert found["electronegativity_mismatch"] == pytest.approx(0.05)
    assert found["mixing_entropy_j_per_mol_k"] == pytest.approx(8.314 * np.log(2), rel=1e-6)
    assert found["mixing_enthalpy_kj_per_mol"] == pytest.approx(-2.0)


def test_an_element_alone_does_not_mix():
    found = features("Fe", names=EXTENDED)[0]
    zero = (
        "radius_mismatch_percent",
        "electronegativity_mismatch",
        "mixing_enthalpy_kj_per_mol",
        "atomic_radius_pm_range",
    )
    assert all(found[name] == 0 for name in zero)
    assert abs(found["mixing_entropy_j_per_mol_k"]) < 1e-5 and np.isfinite(list(found.values())).all()


def test_only_the_composition_counts():
    a, b, c = features("Al0.5FeNi", "Ni2Fe2Al", "(FeNi)2Al", names=EXTENDED)
    for name in EXTENDED:
        assert a[name] == pytest.approx(b[name], rel=1e-12) == pytest.approx(c[name], rel=1e-12)


def test_extremes_and_pairs():
    found = features("AlFeNi", names=EXTENDED)[0]
    assert found["melting_temperature_k_min"] == 933.0 and found["melting_temperature_k_max"] == 1800.0
    assert found["lowest_pair_enthalpy_kj_per_mol"] == -22.0 and found["highest_pair_enthalpy_kj_per_mol"] == -2.0
    assert found["mixing_enthalpy_kj_per_mol"] == pytest.approx(4 * (-2 - 11 - 22) / 9)
    assert found["number_of_elements"] == 3 and found["largest_fraction"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("bad", ["", "Xx2", "Fe-Ni", "fe2", "3"])
def test_texts_that_are_no_alloys_are_refused(bad):
    with pytest.raises(FormulaError):
        parse_alloy(bad)


def test_unknown_elements_and_pairs_are_named():
    table = elements({"Fe,Ni": -2.0})
    assert why_not(parse_alloy("FeNi"), table) == ""
    assert why_not(parse_alloy("FeNiXe"), table) == "no properties of Xe"
    assert why_not(parse_alloy("AlFeNi"), table) == "no mixing enthalpy of Al-Fe, Al-Ni"


def test_pairs_are_recovered_only_where_alloys_determine_them():
    whole, partial = elements(), elements({"Fe,Ni": -2.0})
    binary = whole.fractions([parse_alloy("Al2Fe")])
    known = partial.with_recovered_pairs(binary, alloy_features(binary, whole)[:, 7])
    assert why_not(parse_alloy("AlFe"), known) == ""
    assert known.pair_enthalpy[0, 1] == pytest.approx(-11.0)
    assert why_not(parse_alloy("AlNi"), known) == "no mixing enthalpy of Al-Ni"
    ternary = whole.fractions([parse_alloy("AlFeNi")])  # one equation for two unknowns
    assert why_not(parse_alloy("AlFe"), partial.with_recovered_pairs(ternary, np.array([-15.0]))) != ""


def test_unknown_pairs_are_estimated_from_similar_elements():
    """Where Al-Ni is not known, it is what Al-Fe is: nothing else is there to go by."""
    estimated = elements({"Fe,Ni": -2.0, "Al,Fe": -11.0}).with_estimated_pairs()
    value = estimated.pair_enthalpy[estimated.symbols.index("Al"), estimated.symbols.index("Ni")]
    assert -11.0 <= value <= -2.0
    assert np.array_equal(estimated.pair_enthalpy, estimated.pair_enthalpy.T)
    assert estimated.pair_enthalpy[0, 1] == -11.0 and not np.diag(estimated.pair_enthalpy).any()


def test_estimates_follow_pairs_left_out(sluice_data):
    """Every tenth known pair estimated without it: correlation above .85, mean error below half the pairs' spread."""
    folder = sluice_data / "hea_dvae"
    if not folder.is_dir():
        pytest.skip("SLUICE_DATA has no hea_dvae")
    table = read_elements(folder)
    i, j = np.triu_indices(len(table.symbols), k=1)
    known = np.isfinite(table.pair_enthalpy[i, j])
    i, j = i[known], j[known]
    truth, guess = table.pair_enthalpy[i, j], np.zeros(known.sum())
    for fold in range(10):
        held = np.arange(len(i)) % 10 == fold
        matrix = table.pair_enthalpy.copy()
        matrix[i[held], j[held]] = matrix[j[held], i[held]] = np.nan
        filled = AlloyElements(table.symbols, table.properties, matrix).with_estimated_pairs()
        guess[held] = filled.pair_enthalpy[i[held], j[held]]
    assert np.corrcoef(truth, guess)[0, 1] > 0.85
    assert np.abs(truth - guess).mean() < 0.55 * np.abs(truth - truth.mean()).mean()


def test_plain_values_hold_everything():
    table = elements({"Fe,Ni": -2.0})
    again = AlloyElements.from_plain(json.loads(json.dumps(table.plain())))
    assert again.symbols == table.symbols
    assert np.array_equal(again.properties, table.properties)
    assert np.array_equal(again.pair_enthalpy, table.pair_enthalpy, equal_nan=True)


@pytest.mark.parametrize(
    ("table", "pairs"), [({"Fe": {"k": 1.0}}, {}), (TABLE, {"Fe,Xe": 1.0}), (TABLE | {"Co": dict.fromkeys("k", 1)}, {})]
)
def test_incomplete_tables_are_refused(table, pairs):
    with pytest.raises(BadDataError, match="tables of element properties"):
        AlloyElements.from_tables(table, pairs)


def test_equal_to_the_published_table(sluice_data):
    """All 8 features of every alloy whose pairs the authors' tables hold, and most others once pairs are recovered."""
    folder = sluice_data / "hea_dvae"
    if not folder.is_dir():
        pytest.skip("SLUICE_DATA has no hea_dvae")
    tables = [json.loads((folder / f"{name}.json").read_text()) for name in ("look_up_dict", "mixing_enthalpy_dict")]
    published = pd.read_csv(folder / "HEA_feature_engineered.csv.gz", keep_default_na=False)
    alloys = [parse_alloy(name) for name in published["Alloys"]]
    authors = AlloyElements.from_tables(*tables)
    fractions = authors.fractions(alloys)
    wanted = published[list(PUBLISHED_COLUMNS)].to_numpy(float)
    there = np.array([why_not(alloy, authors) == "" for alloy in alloys])
    assert there.sum() == 1375
    assert np.abs(alloy_features(fractions[there], authors) - wanted[there]).max() < 1e-9
    recovered = authors.with_recovered_pairs(fractions, wanted[:, 7])
    more = np.array([why_not(alloy, recovered) == "" for alloy in alloys])
    assert more.sum() > 1750
    assert np.abs(alloy_features(fractions[more], recovered) - wanted[more]).max() < 1e-6
