"""Symmetry found must be symmetry asked for."""

from pymatgen.core import Structure

from sluice.config import SymmetrySettings
from sluice.crystals import Crystals
from sluice.screen.check_symmetry import NO_GROUP, OTHER_GROUP, check_symmetry
from sluice.store import Store


def test_only_crystals_of_the_group_asked_for_pass(crystal, write_store, reasons_of, tmp_path):
    perovskite = crystal["perovskite"]("K", "Mg", "F", 4.0)
    heusler = crystal["half_heusler"]("Li", "Al", "Si", 5.9)
    bent = perovskite.copy()
    bent.translate_sites([1], [0.06, 0, 0])
    overlapping = Structure(perovskite.lattice, ["Na", "Na"], [[0, 0, 0], [0, 0, 0]])
    path = write_store(
        "in.h5",
        "geometry",
        [perovskite, heusler, perovskite, bent, overlapping],
        ["good", "good2", "asked-216", "bent", "overlap"],
        requested_space_group=[221, 216, 216, 221, 221],
    )
    check_symmetry(candidates=path, settings=SymmetrySettings(), symmetry=tmp_path / "out.h5")
    assert reasons_of(tmp_path / "out.h5") == {
        "asked-216": ("rejected", OTHER_GROUP, "asked for 216, found 221"),
        "bent": ("rejected", OTHER_GROUP, "asked for 221, found 99"),
        "overlap": ("rejected", NO_GROUP, ""),
    }
    with Store(tmp_path / "out.h5", "symmetry") as store:
        assert store.ids() == ["good", "good2"]
        assert store.column("space_group").tolist() == [221, 216]


def test_a_wider_tolerance_lets_a_bent_crystal_pass(crystal, write_store, tmp_path):
    bent = crystal["perovskite"]("K", "Mg", "F", 4.0)
    bent.translate_sites([1], [0.06, 0, 0])
    path = write_store("in.h5", "geometry", [bent], requested_space_group=221)
    check_symmetry(candidates=path, settings=SymmetrySettings(symprec=0.5), symmetry=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5") as store:
        assert len(store) == 1


def test_an_empty_batch_gives_an_empty_store(write_store, tmp_path):
    path = write_store("in.h5", "geometry", Crystals.empty())
    check_symmetry(candidates=path, settings=SymmetrySettings(), symmetry=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5", "symmetry") as store:
        assert len(store) == 0
