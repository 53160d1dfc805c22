import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element, Lattice, Structure

from sluice.chemistry.hull import Hull, element_fractions
from sluice.crystals import Crystals

SYMBOLS = ("Li", "Mg", "O", "F", "Ti")


def shares(compositions):
    rows = np.zeros((len(compositions), 119))
    for row, composition in zip(rows, compositions, strict=True):
        for element, amount in composition.fractional_composition.items():
            row[Element(element.symbol).Z] = amount
    return rows


def random_compounds(rng, symbols, n):
    """Compounds of up to all of these elements, energies per atom that make a hull with corners inside."""
    amounts = [dict(zip(symbols, rng.integers(0, 4, len(symbols)), strict=True)) for _ in range(n)]
    made = [Composition({s: int(a) for s, a in entry.items() if a}) for entry in amounts if any(entry.values())]
    return made, np.array([-3.0 * (1 - sum(v**2 for v in c.fractional_composition.values())) for c in made]) * (
        0.5 + rng.random(len(made))
    )


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_distances_are_pymatgens(size):
    rng = np.random.default_rng(size)
    symbols = SYMBOLS[:size]
    known, energies = random_compounds(rng, symbols, 40)
    elements = [Composition(s) for s in symbols]
    known, energies = known + elements, np.append(energies, rng.normal(size=size)) - 1.0
    asked, its = random_compounds(rng, symbols, 60)
    its = its - 1.0
    entries = [PDEntry(c, e * c.num_atoms) for c, e in zip(known, energies, strict=True)]
    diagram = PhaseDiagram(entries)
    expected = [
        diagram.get_decomp_and_e_above_hull(PDEntry(c, e * c.num_atoms), allow_negative=True)[1]
        for c, e in zip(asked, its, strict=True)
    ]
    found = Hull(shares(known), energies).distances(shares(asked), its)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert (found < 0).any() or size < 3


def test_without_compounds_the_elements_are_the_hull():
    hull = Hull(shares([Composition("Li"), Composition("O")]), np.array([-2.0, -4.0]))
    np.testing.assert_allclose(hull.distances(shares([Composition("Li2O")]), np.array([-5.0])), [-5.0 + 8.0 / 3])


def test_the_lowest_crystal_of_an_element_counts():
    hull = Hull(shares([Composition("Li"), Composition("Li")]), np.array([-1.0, -2.0]))
    np.testing.assert_allclose(hull.distances(shares([Composition("Li")]), np.array([-1.5])), [0.5])


def test_what_cannot_be_known_is_nan():
    hull = Hull(shares([Composition("Li"), Composition("LiF")]), np.array([-1.0, -3.0]))
    found = hull.distances(shares([Composition("LiF"), Composition("Li")]), np.array([-3.0, np.nan]))
    assert np.isnan(found).all()
    assert np.isnan(Hull(shares([Composition("Li")]), np.array([np.nan])).distances(shares([Composition("Li")]), [0.0]))


def test_shares_of_elements():
    crystals = Crystals.from_structures(
        [Structure.from_spacegroup("Pm-3m", Lattice.cubic(4), ["K", "Mg", "F"], [[0.5] * 3, [0] * 3, [0.5, 0, 0]])]
    )
    found = element_fractions(crystals)
    np.testing.assert_allclose(found[0, [19, 12, 9]], [0.2, 0.2, 0.6])
    assert found.sum() == pytest.approx(1)


@pytest.mark.skipif("SLUICE_DATA" not in os.environ, reason="SLUICE_DATA names no folder of reference data")
def test_materials_projects_own_crystals_lie_on_its_hull():
    folder = Path(os.environ["SLUICE_DATA"]) / "elemental_refs_hull"
    import pandas as pd

    table = pd.read_csv(folder / "gnome_mp_materials_summary.csv.gz", keep_default_na=False)
    elements = json.loads(gzip.decompress((folder / "mp-elemental-reference-entries-2023-02-07.json.gz").read_bytes()))
    sample = table[table["Elements"].str.contains("'O'") & table["Elements"].str.contains("'Ti'")]
    system = {"O", "Ti", "Sr", "Ba"}
    inside = sample[[set(Composition(c).as_dict()) <= system for c in sample["Composition"]]]
    compositions = [Composition(c) for c in inside["Composition"]] + [Composition(s) for s in sorted(system)]
    energies = np.array(
        [float(e) / c.num_atoms for e, c in zip(inside["Corrected Energy"], compositions, strict=False)]
        + [elements[s]["energy"] / sum(elements[s]["composition"].values()) for s in sorted(system)]
    )
    assert len(inside) > 10
    found = Hull(shares(compositions), energies).distances(shares(compositions), energies)
    assert np.abs(found).max() < 2e-3
