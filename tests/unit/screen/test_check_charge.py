"""Charge neutrality of candidates."""

from sluice.chemistry.charge_neutrality import METALS_ONLY, NOT_NEUTRAL, WRONG_ORDER
from sluice.config import ChargeSettings
from sluice.crystals import Crystals
from sluice.screen.check_charge import check_charge
from sluice.store import Store


def test_each_reason(crystal, write_store, reasons_of, tmp_path):
    structures = {
        "good": crystal["perovskite"]("K", "Mg", "F", 4.0),
        "unbalanced": crystal["perovskite"]("Na", "K", "F", 4.0),
        "alloy": crystal["half_heusler"]("Li", "Mg", "Al", 6.5),
        "order": crystal["half_heusler"]("Na", "Cl", "S", 6.5),
    }
    path = write_store("in.h5", "symmetry", list(structures.values()), list(structures))
    check_charge(candidates=path, settings=ChargeSettings(), charge=tmp_path / "out.h5")
    found = {name: reason for name, (_, reason, _) in reasons_of(tmp_path / "out.h5").items()}
    assert found == {"unbalanced": NOT_NEUTRAL, "alloy": METALS_ONLY, "order": WRONG_ORDER}
    with Store(tmp_path / "out.h5", "charge") as store:
        assert store.ids() == ["good"]


def test_an_empty_batch_gives_an_empty_store(write_store, tmp_path):
    path = write_store("in.h5", "symmetry", Crystals.empty())
    check_charge(candidates=path, settings=ChargeSettings(), charge=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5", "charge") as store:
        assert len(store) == 0
