"""Screening of compositions: charge, what is known, score, shortlist."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from formula_stores import known_formulas, outcome, salts, write_formulas

from sluice.chemistry.charge_neutrality import METALS_ONLY, NOT_NEUTRAL, WRONG_ORDER
from sluice.chemistry.composition_keys import composition_keys
from sluice.chemistry.compositions import Compositions
from sluice.chemistry.element_distance import scale_positions
from sluice.config import ChargeSettings
from sluice.config_composition_campaign import FormulaShortlistSettings
from sluice.errors import SluiceError
from sluice.models.composition import CompositionModel
from sluice.models.composition_training import save_composition_model
from sluice.screen import remove_known_compositions as removal
from sluice.screen.check_composition_charge import check_composition_charge
from sluice.screen.remove_known_compositions import DUPLICATE, KNOWN, remove_known_compositions
from sluice.screen.score_candidates import NO_SCORE
from sluice.screen.score_compositions import score_compositions
from sluice.screen.shortlist_compositions import (
    BELOW_CUT,
    ENOUGH_OF_SYSTEM,
    TOO_HIGH,
    TOO_UNSURE,
    shortlist_compositions,
)
from sluice.store import Store


def test_charge_by_smacts_rules(tmp_path):
    formulas = ["NaCl", "NaCl2", "MgO", "NaMg", "LiNaO", "Al2O3"]
    source = write_formulas(tmp_path / "a.h5", "composition_candidates", formulas)
    check_composition_charge(
        candidates=source, settings=ChargeSettings(oxidation_states="smact14"), charge=tmp_path / "b.h5"
    )
    kept, reasons = outcome(tmp_path / "b.h5")
    assert kept == ["NaCl", "MgO", "LiNaO", "Al2O3"]
    assert reasons["c000001"][0] in (NOT_NEUTRAL, WRONG_ORDER) and reasons["c000003"][0] == METALS_ONLY
    with Store(tmp_path / "b.h5", "composition_charge") as store:
        assert (store.attributes["campaign"], store.attributes["round"]) == ("test", 1)


def remove(tmp_path, *batches, order=1):
    paths = []
    for k, formulas in enumerate(batches):
        ids = [f"r1-b{k}-{i:02d}" for i in range(len(formulas))]
        paths.append(write_formulas(tmp_path / f"batch_{k}.h5", "composition_charge", formulas, ids))
    known = known_formulas(tmp_path / "known.h5", ["NaCl", "Na2MgF4", *salts()], split=["test"] + ["train"] * 19)
    remove_known_compositions(candidates=paths[::order], known=known, unique=tmp_path / "unique.h5")
    with Store(tmp_path / "unique.h5", "composition_unique") as store:
        return store.ids(), *outcome(tmp_path / "unique.h5"), store.content_sha256


def test_known_and_repeated_compositions_go(tmp_path):
    names, formulas, reasons, _ = remove(tmp_path, ["LiF", "NaCl", "Mg2O2"], ["MgO", "LiF", "AlCl3", "Na4Mg2F8"])
    assert formulas == ["LiF", "Mg2O2", "AlCl3"] and names == ["r1-b0-00", "r1-b0-02", "r1-b1-02"]
    assert reasons == {
        "r1-b0-01": (KNOWN, "NaCl"),  # held-out formulas are known, too
        "r1-b1-00": (DUPLICATE, "duplicate of r1-b0-02"),
        "r1-b1-01": (DUPLICATE, "duplicate of r1-b0-00"),
        "r1-b1-03": (KNOWN, "Na4Mg2F8"),
    }
    assert not list(tmp_path.glob(".*scratch"))


def test_neither_order_nor_buckets_matter(tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    pool = [f"Li{a}Na{b}F{c}" for a in range(1, 5) for b in range(1, 5) for c in range(1, 5)]
    batches = [rng.choice(pool, 60).tolist() for _ in range(3)]
    once = remove(tmp_path, *batches)
    monkeypatch.setattr(removal, "ROWS_PER_BUCKET", 7)
    assert once == remove(tmp_path, *batches, order=-1)
    everything = [formula for batch in batches for formula in batch]
    drawn, known = (set(composition_keys(Compositions.from_formulas(f)).tolist()) for f in (everything, salts()))
    assert drawn & known and len(once[1]) == len(drawn - known)


def test_nothing_left_is_legal(tmp_path):
    assert remove(tmp_path, [], [])[:2] == ([], [])


@pytest.fixture
def scorer(tmp_path):
    """Two untrained members that know six elements."""
    settings = {"model": "elemnet", "depth": 3, "members": 2, "uncertainty": True}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = CompositionModel(settings=settings)
    model.fit_scale(Compositions.from_formulas(["LiNaMgAlFO"]), np.array([-1.0]))
    path = tmp_path / "scorer.ckpt"
    save_composition_model(path, model.eval(), {"output": "formation energy"})
    return path, model


def test_scores_have_a_spread_and_strangers_none(tmp_path, scorer):
    path, model = scorer
    source = write_formulas(tmp_path / "a.h5", "composition_unique", ["LiF", "NaCl", "MgO"])
    score_compositions(candidates=source, model=path, device="cpu", scored=tmp_path / "b.h5")
    formulas, reasons = outcome(tmp_path / "b.h5")
    assert formulas == ["LiF", "MgO"]
    assert reasons == {"c000001": (NO_SCORE, "the model was trained on no composition with Cl")}
    expected = model.predict(Compositions.from_formulas(["LiF", "MgO"]))
    with Store(tmp_path / "b.h5", "composition_scored") as store:
        np.testing.assert_allclose(store.column("predicted_formation_energy_ev_per_atom"), expected.value)
        np.testing.assert_allclose(store.column("standard_deviation_ev_per_atom"), expected.uncertainty)
        assert store.columns["standard_deviation_ev_per_atom"].unit == "eV/atom"
    assert (expected.uncertainty > 0).all()


def test_models_of_crystals_are_refused(tmp_path, screener):
    source = write_formulas(tmp_path / "a.h5", "composition_unique", ["LiF"])
    with pytest.raises(SluiceError, match="a cgcnn model scores no compositions"):
        score_compositions(candidates=source, model=screener, device="cpu", scored=tmp_path / "b.h5")


SCORED = {  # formula → mean and standard deviation, eV/atom
    "LiF": (-3.0, 0.1),
    "NaF": (-2.8, 0.5),
    "Li2F": (-2.9, 0.1),
    "MgO": (-2.0, 0.2),
    "NaCl": (0.2, 0.1),
    "AlCl3": (-2.5, 2.0),
}


def shortlist(tmp_path, **settings):
    mean, deviation = (np.array(values) for values in zip(*SCORED.values(), strict=True))
    source = write_formulas(
        tmp_path / "scored.h5",
        "composition_scored",
        list(SCORED),
        predicted_formation_energy_ev_per_atom=mean,
        standard_deviation_ev_per_atom=deviation,
    )
    known = known_formulas(tmp_path / "known.h5", ["NaMgF3", "MgO2", "LiCl"], split=["train", "train", "test"])
    path = tmp_path / "shortlist.h5"
    shortlist_compositions(
        candidates=source, known=known, settings=FormulaShortlistSettings(**settings), shortlist=path
    )
    return outcome(path)


@pytest.mark.parametrize(
    ("exploration", "expected"),
    [(0.0, ["LiF", "Li2F", "NaF"]), (1.0, ["AlCl3", "NaF", "LiF"]), (-1.0, ["LiF", "Li2F", "NaF"])],
)
def test_ranked_by_mean_and_deviation(tmp_path, exploration, expected):
    formulas, reasons = shortlist(tmp_path, size=3, exploration=exploration)
    assert formulas == expected
    assert reasons["c000004"][0] == TOO_HIGH and reasons["c000003"][0] == BELOW_CUT
    with Store(tmp_path / "shortlist.h5", "composition_shortlist") as store:
        assert store.column("rank").tolist() == [1, 2, 3]
        value = [SCORED[formula][0] - exploration * SCORED[formula][1] for formula in formulas]
        np.testing.assert_allclose(store.column("acquisition_ev_per_atom"), value)


def test_one_set_of_elements_does_not_take_all(tmp_path):
    formulas, reasons = shortlist(tmp_path, size=3, exploration=0, max_per_system=1, max_deviation=1.0)
    assert formulas == ["LiF", "NaF", "MgO"]
    assert reasons["c000002"][0] == ENOUGH_OF_SYSTEM and reasons["c000005"][0] == TOO_UNSURE


def test_nearest_is_a_training_formula(tmp_path):
    shortlist(tmp_path, size=6, max_per_system=2)
    with Store(tmp_path / "shortlist.h5") as store:
        nearest = dict(zip(store.text("formula"), store.text("nearest_known"), strict=True))
        distance = dict(zip(store.text("formula"), store.column("element_movers_distance"), strict=True))
        assert store.text("elements")[store.text("formula").index("AlCl3")] == "Al-Cl"
    assert nearest["MgO"] == "MgO2" and nearest["LiF"] == "NaMgF3"
    # A sixth of the atoms moves from magnesium to oxygen.
    assert distance["MgO"] == pytest.approx((scale_positions()[8] - scale_positions()[12]) / 6)


def test_a_large_store_is_ranked_part_by_part(tmp_path, monkeypatch):
    whole, _ = shortlist(tmp_path, size=4, max_per_system=1)
    chunks = Store.chunks
    monkeypatch.setattr(Store, "chunks", lambda self, size=2: chunks(self, 2))
    assert shortlist(tmp_path, size=4, max_per_system=1)[0] == whole
