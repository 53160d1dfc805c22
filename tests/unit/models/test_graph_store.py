from dataclasses import fields

import numpy as np
import pytest
from crystals_for_models import decorated

from sluice.crystals import Crystals
from sluice.errors import StoreError
from sluice.models import graph_store
from sluice.models.graph_store import read_graphs, write_graphs
from sluice.models.graphs import Graphs, prepare_graphs
from sluice.schemas import Column
from sluice.store import Store


@pytest.mark.parametrize("scale", ["given", "touching"])
def test_what_is_read_is_what_was_built(tmp_path, monkeypatch, scale):
    monkeypatch.setattr(graph_store, "CHUNK", 4)
    crystals = decorated()[0][::70]
    names = [f"x{i}" for i in range(len(crystals))]
    target = np.arange(len(crystals), dtype=float)
    columns = {"target": (Column("f8", "eV/atom"), target)}
    write_graphs(tmp_path / "g.h5", names, crystals, columns, neighbours=12, cutoff=6.0, scale=scale)
    ids, graphs, found = read_graphs(tmp_path / "g.h5")
    expected = prepare_graphs(crystals, neighbours=12, cutoff=6.0, scale=scale)
    assert ids == names
    np.testing.assert_array_equal(found["target"], target)
    for field in fields(Graphs):
        np.testing.assert_array_equal(getattr(graphs, field.name), getattr(expected, field.name), field.name)


def test_crystals_without_a_graph_are_listed(tmp_path):
    crystals = decorated()[0][:3]
    lattice = crystals.lattice.copy()
    lattice[1] = np.nan
    broken = Crystals(lattice, crystals.atom_offsets, crystals.numbers, crystals.frac_coords)
    write_graphs(tmp_path / "g.h5", ["a", "b", "c"], broken, {}, neighbours=12, cutoff=6.0)
    assert read_graphs(tmp_path / "g.h5")[0] == ["a", "c"]
    with Store(tmp_path / "g.h5", "graphs") as store:
        failures = store.failures()
    assert failures.candidate_id == ["b"] and failures.reason == ["no usable cell"]


def test_a_damaged_store_is_refused(tmp_path):
    write_graphs(tmp_path / "g.h5", ["a", "b"], decorated()[0][:2], {}, neighbours=12, cutoff=6.0)
    raw = bytearray((tmp_path / "g.h5").read_bytes())
    (tmp_path / "cut.h5").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(StoreError, match=r"cut\.h5"):
        read_graphs(tmp_path / "cut.h5")


def test_size_does_not_count_where_atoms_touch():
    crystals = decorated()[0][:2]
    grown = Crystals(crystals.lattice * 1.15, crystals.atom_offsets, crystals.numbers, crystals.frac_coords)
    one, two = (prepare_graphs(c, neighbours=12, cutoff=9.0, scale="touching") for c in (crystals, grown))
    np.testing.assert_allclose(one.distances, two.distances, rtol=1e-5)
    given = prepare_graphs(grown, neighbours=12, cutoff=9.0)
    assert np.abs(given.distances / two.distances - 1).min() > 1e-3
