"""The formulas to learn from: of a database of crystals, or of a table."""

from __future__ import annotations

import numpy as np
import pytest
from formula_stores import ELEMENTS, energy_of, outcome, salts, write_csv
from pymatgen.core import Lattice, Structure

from sluice.config import Chemistry, CurateSettings
from sluice.config_composition_campaign import FormulaTableSettings
from sluice.crystals import Crystals
from sluice.curate.collect_compositions import BAD_ROW, OUTSIDE, collect_compositions
from sluice.errors import BadDataError
from sluice.store import Store, StoreWriter


def collect(tmp_path, *, table=None, dataset=None, curate=None, **settings):
    path = tmp_path / "compositions.h5"
    collect_compositions(
        dataset=[dataset] if dataset else [],
        table=[table] if table else [],
        settings=FormulaTableSettings(path=table, **settings),
        curate=curate or CurateSettings(),
        chemistry=Chemistry(elements=ELEMENTS),
        seed=1,
        campaign="test",
        compositions=path,
    )
    return path


def values(path):
    with Store(path, "compositions") as store:
        assert store.attributes["campaign"] == "test"
        energies = dict(zip(store.text("formula"), store.column("formation_energy_ev_per_atom").tolist(), strict=True))
        return energies, dict(zip(store.text("formula"), store.text("split"), strict=True))


def test_table_is_read_merged_and_split(tmp_path):
    formulas = [*salts(), "Na2Mg2F6", "NaMgF3"]
    energies = [*map(energy_of, salts()), -9.0, -8.0]
    table = write_csv(tmp_path / "t.csv", formulas, formation_energy_ev_per_atom=energies)
    energies, split = values(collect(tmp_path, table=table))
    assert set(energies) == set(salts())
    assert energies["NaMgF3"] == -9.0, "the lowest one of a formula counts"
    assert sorted(split.values()) == ["test"] * 2 + ["train"] * 14 + ["val"] * 2


def test_rows_that_cannot_be_used_are_named(tmp_path):
    table = write_csv(tmp_path / "t.csv", [*salts(), "NaXx", "KCl", "LiF"], e=[*range(18), -1, -2, "none"])
    path = collect(tmp_path, table=table, energy_column="e", curate=CurateSettings(max_bad_fraction=0.2))
    formulas, reasons = outcome(path)
    assert set(formulas) == set(salts())
    assert reasons["row 20"] == (BAD_ROW, "'NaXx': 'Xx' is no element")
    assert reasons["row 22"] == (BAD_ROW, "e = 'none' is no number")
    assert (OUTSIDE, "KCl") in reasons.values() and len(reasons) == 3


@pytest.mark.parametrize(
    ("formulas", "settings", "message"),
    [
        ([*salts(), "NaXx", "Xx"], {}, r"2 of 20 rows cannot be used(.|\n)*row 20: 'NaXx'"),
        (salts(), {"energy_column": "e"}, r"no column 'e'; there are: formula, formation_energy_ev_per_atom"),
        (["LiF", "NaCl", "KBr"], {}, r"2 formulas of the elements Li, .* are left of 3 rows"),
    ],
)
def test_tables_that_cannot_be_learned_from_stop_it(tmp_path, formulas, settings, message):
    with pytest.raises(BadDataError, match=message):
        collect(tmp_path, table=write_csv(tmp_path / "t.csv", formulas), **settings)
    assert not (tmp_path / "compositions.h5").exists()


def test_database_gives_each_formula_its_lowest_crystal(tmp_path):
    cells = [
        Structure(Lattice.cubic(4.0 + 0.1 * k), [a, x], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for k, (a, x) in enumerate((a, x) for a in ("Li", "Na", "Mg", "Al", "K") for x in ("O", "F", "Cl"))
    ]
    cells.append(Structure(Lattice.cubic(9.0), ["Na"] * 2 + ["Cl"] * 2, [[0, 0, k / 4] for k in range(4)]))
    energies = [*np.linspace(-3, -1, 15), -5.0]
    dataset = tmp_path / "dataset.h5"
    with StoreWriter(dataset, "dataset", campaign="test") as writer:
        columns = {"prototype": [""] * 16, "space_group": np.ones(16, int), "label_source": ["chgnet"] * 16}
        columns |= {"formation_energy_ev_per_atom": np.array(energies), "split": ["train"] * 8 + ["val"] * 8}
        columns["split"][15] = columns["split"][5]  # a formula has one split
        writer.append([f"x{k:02d}" for k in range(16)], columns, crystals=Crystals.from_structures(cells))
    path = collect(tmp_path, dataset=dataset)
    found, split = values(path)
    assert len(found) == 12 and found["NaCl"] == -5.0 and split["AlF"] == "val"
    with Store(path) as store:
        parents = dict(zip(store.text("formula"), [p.decode() for p in store.identities()[1]], strict=True))
        assert parents["NaCl"] == "x15" and store.counts["merged"] == 1 and store.reasons() == {OUTSIDE: 3}
