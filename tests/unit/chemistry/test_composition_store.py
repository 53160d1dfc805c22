"""Compositions in stores as formulas that people can read."""

from __future__ import annotations

from formula_stores import known_formulas, salts

from sluice.chemistry.composition_store import (
    composition_table,
    compositions_of,
    reduced,
    stream_compositions,
    systems,
    written_formulas,
)
from sluice.chemistry.compositions import Compositions
from sluice.store import Store


def test_formulas_run_from_metal_to_anion():
    found = Compositions.from_formulas(["O3TiSr", "Fe4O6", "ClNa", "HeF2"])
    assert written_formulas(found) == ["SrTiO3", "Fe4O6", "NaCl", "F2He"]  # helium has no electronegativity
    assert written_formulas(reduced(found))[1] == "Fe2O3"
    assert systems(found) == ["O-Sr-Ti", "Fe-O", "Cl-Na", "F-He"]


def test_written_formulas_are_read_back_as_they_were():
    found = Compositions.from_formulas(["Al0.5CoCrFeNi", "Ca3(PO4)2", "SrTiO3"])
    again = Compositions.from_formulas(written_formulas(reduced(found)))
    assert again.formulas() == reduced(found).formulas()


def test_rows_of_a_store(tmp_path):
    path = known_formulas(tmp_path / "known.h5", split=["train", "val", "test"] * 6)
    with Store(path, "compositions") as store:
        chunk = store.rows()
    assert written_formulas(compositions_of(chunk)) == salts()
    table = composition_table(chunk)
    assert table.rows("val").tolist() == list(range(1, 18, 3))
    parts = [len(found) for _, found in stream_compositions([path, path], "compositions", size=10)]
    assert parts == [10, 8, 10, 8]
