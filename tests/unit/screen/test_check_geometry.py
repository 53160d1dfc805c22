"""Every geometric reason, each by a crystal that deserves it."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from sluice.config import GeometrySettings
from sluice.crystals import Crystals
from sluice.schemas import Column
from sluice.screen import check_geometry as module
from sluice.screen.check_geometry import check_geometry, examine
from sluice.store import Store

SETTINGS = GeometrySettings()


def one(lattice, numbers, frac):
    return Crystals.from_arrays([np.asarray(lattice, float)], [np.asarray(numbers)], [np.asarray(frac, float)])


def test_each_reason(crystal, write_store, reasons_of, tmp_path):
    good = crystal["perovskite"]("K", "Mg", "F", 4.0)
    cases = {
        "": Crystals.from_structures([good]),
        module.TOO_CLOSE: Crystals.from_structures([crystal["perovskite"]("K", "Mg", "F", 2.2)]),
        module.TOO_LIGHT: Crystals.from_structures([Structure(Lattice.cubic(15), ["Na"], [[0, 0, 0]])]),
        module.TOO_DENSE: one(np.eye(3) * 2.2, [78], [[0, 0, 0]]),
        module.CELL_TOO_LONG: Crystals.from_structures([crystal["perovskite"]("K", "Mg", "F", 21.0)]),
        module.FLAT_CELL: one(np.diag([4.0, 4.0, 0.0]), [11], [[0, 0, 0]]),
        module.NOT_FINITE: one(np.diag([4.0, 4.0, np.nan]), [11], [[0, 0, 0]]),
        module.UNKNOWN_ELEMENT: one(np.eye(3) * 4, [0], [[0, 0, 0]]),
        module.NO_ATOMS: one(np.eye(3) * 4, [], np.zeros((0, 3))),
    }
    assert examine(cases[module.TOO_DENSE], SETTINGS)[1][0] > SETTINGS.min_distance_ratio
    ids = [f"c-{i}" for i in range(len(cases))]
    path = write_store("in.h5", "candidates", Crystals.concatenate(list(cases.values())), ids)
    check_geometry(candidates=path, settings=SETTINGS, geometry=tmp_path / "out.h5")
    found = reasons_of(tmp_path / "out.h5")
    assert {name: found.get(name, ("", "", ""))[1] for name in ids} == dict(zip(ids, cases, strict=True))
    with Store(tmp_path / "out.h5", "geometry") as store:
        assert store.ids() == ["c-0"]
        assert store.column("density_g_per_cm3")[0] == pytest.approx(float(good.density), rel=1e-3)
        assert store.attributes["round"] == 1
        assert store.attributes["campaign"] == "test"


def test_coordinates_that_are_not_finite_are_rejected():
    crystals = one(np.eye(3) * 4, [11, 17], [[0, 0, 0], [np.inf, 0, 0]])
    assert examine(crystals, SETTINGS)[0].tolist() == [module.NOT_FINITE]


def test_further_columns_are_passed_on(crystal, write_store, tmp_path):
    path = write_store(
        "in.h5",
        "candidates",
        [crystal["perovskite"]("K", "Mg", "F", 4.0)],
        extra={"prototype": Column("S32")},
        prototype=["perovskite"],
        requested_space_group=221,
    )
    check_geometry(candidates=path, settings=SETTINGS, geometry=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5") as store:
        assert store.text("prototype") == ["perovskite"]
        assert store.column("requested_space_group").tolist() == [221]


def test_an_empty_batch_gives_an_empty_store(write_store, tmp_path):
    path = write_store("in.h5", "candidates", [])
    check_geometry(candidates=path, settings=SETTINGS, geometry=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5", "geometry") as store:
        assert len(store) == 0
        assert store.counts["in"] == 0
