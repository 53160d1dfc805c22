"""Scores are the screener's."""

import json
import shutil

import numpy as np
import pytest

from sluice.config import Filter, ScoreSettings
from sluice.crystals import Crystals
from sluice.errors import ConfigError, SluiceError
from sluice.models.composition import CompositionModel
from sluice.models.composition_training import save_composition_model
from sluice.models.scoring import load_model, score_crystals
from sluice.screen import score_candidates as module
from sluice.screen.score_candidates import NO_SCORE, score_candidates
from sluice.store import Store

NONE = ScoreSettings()


def test_every_candidate_gets_the_screeners_score(crystal, write_store, screener, tmp_path, monkeypatch):
    structures = [
        crystal["perovskite"](a, "Mg", "F", 4.0 + i / 10) for i, a in enumerate(("K", "Rb", "Cs", "Na", "Li"))
    ]
    path = write_store("unique.h5", "unique", structures)
    score_candidates(candidates=path, model=screener, settings=NONE, device="cpu", scored=tmp_path / "out.h5")
    expected = score_crystals(load_model(screener), Crystals.from_structures(structures), "cpu")
    with Store(tmp_path / "out.h5", "scored") as store:
        assert store.column("screener_score") == pytest.approx(expected, rel=1e-5)
        assert len(set(store.column("screener_score"))) == 5
    monkeypatch.setattr(module, "ROWS", 2)
    score_candidates(candidates=path, model=screener, settings=NONE, device="cpu", scored=tmp_path / "parts.h5")
    with Store(tmp_path / "parts.h5") as store:
        assert store.column("screener_score") == pytest.approx(expected, rel=1e-5)


def test_a_candidate_without_a_usable_cell_fails_alone(crystal, write_store, screener, reasons_of, tmp_path):
    good = Crystals.from_structures([crystal["perovskite"]("K", "Mg", "F", 4.0)])
    bad = Crystals(np.full((1, 3, 3), np.nan), good.atom_offsets, good.numbers, good.frac_coords)
    path = write_store("unique.h5", "unique", Crystals.concatenate([good, bad]), ["good", "bad"])
    score_candidates(candidates=path, model=screener, settings=NONE, device="cpu", scored=tmp_path / "out.h5")
    assert reasons_of(tmp_path / "out.h5") == {"bad": ("failed", NO_SCORE, "screener")}


def test_no_model_is_said_so(crystal, write_store, tmp_path):
    path = write_store("unique.h5", "unique", [crystal["perovskite"]("K", "Mg", "F", 4.0)])
    with pytest.raises(SluiceError, match="no such model file"):
        score_candidates(
            candidates=path, model=tmp_path / "none.ckpt", settings=NONE, device="cpu", scored=tmp_path / "out.h5"
        )


def test_no_candidates(write_store, screener, tmp_path):
    path = write_store("unique.h5", "unique", Crystals.empty())
    score_candidates(candidates=path, model=screener, settings=NONE, device="cpu", scored=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5", "scored") as store:
        assert len(store) == 0


def test_candidates_must_pass_the_filters(crystal, write_store, screener, reasons_of, tmp_path):
    structures = [
        crystal["perovskite"](a, "Mg", "F", 4.0 + i / 10) for i, a in enumerate(("K", "Rb", "Cs", "Na", "Li"))
    ]
    path = write_store("unique.h5", "unique", structures)
    expected = score_crystals(load_model(screener), Crystals.from_structures(structures), "cpu")
    middle = float(np.median(expected))
    settings = ScoreSettings(filters=(Filter(name="stability", model=screener, at_least=middle),))
    score_candidates(candidates=path, model=screener, settings=settings, device="cpu", scored=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5", "scored") as store:
        assert len(store) == 3
        assert store.column("filter_0_score").min() >= middle
        assert store.column("filter_0_score") == pytest.approx(store.column("screener_score"))
    assert {reason for _, reason, _ in reasons_of(tmp_path / "out.h5").values()} == {"filter: stability"}


def test_the_screener_may_have_a_least_score(crystal, write_store, screener, reasons_of, tmp_path):
    structures = [
        crystal["perovskite"](a, "Mg", "F", 4.0 + i / 10) for i, a in enumerate(("K", "Rb", "Cs", "Na", "Li"))
    ]
    path = write_store("unique.h5", "unique", structures)
    middle = float(np.median(score_crystals(load_model(screener), Crystals.from_structures(structures), "cpu")))
    settings = ScoreSettings(at_least=middle)
    score_candidates(candidates=path, model=screener, settings=settings, device="cpu", scored=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5", "scored") as store:
        assert len(store) == 3 and store.column("screener_score").min() >= middle
    assert {reason for _, reason, _ in reasons_of(tmp_path / "out.h5").values()} == {"filter: screener"}


def test_an_optional_filter_without_its_model_is_left_out_and_said(
    crystal, write_store, screener, reasons_of, tmp_path, *, capfd
):
    path = write_store("unique.h5", "unique", [crystal["perovskite"]("K", "Mg", "F", 4.0)])
    absent = tmp_path / "later.ckpt"
    one = Filter(name="synthesizability", model=absent, experiment="tsdnn-synthesizability", optional=True, at_least=1)
    settings = ScoreSettings(filters=(one,))
    assert settings.refused() == [] and len(settings.left_out()) == 1
    score_candidates(candidates=path, model=screener, settings=settings, device="cpu", scored=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5", "scored") as store:
        assert len(store) == 1 and "filter_0_score" not in store.columns
        (said,) = json.loads(store.attributes[module.LEFT_OUT])
    assert "sluice experiment tsdnn-synthesizability" in said and "NOT filtered" in said
    assert f"WARNING: {said}" in capfd.readouterr().err
    shutil.copy(screener, absent)
    assert settings.left_out() == []
    score_candidates(candidates=path, model=screener, settings=settings, device="cpu", scored=tmp_path / "out.h5")
    assert {reason for _, reason, _ in reasons_of(tmp_path / "out.h5").values()} == {"filter: synthesizability"}
    with Store(tmp_path / "out.h5", "scored") as store:
        assert json.loads(store.attributes[module.LEFT_OUT]) == []


def test_filters_that_cannot_work_are_told(crystal, write_store, screener, tmp_path):
    path = write_store("unique.h5", "unique", [crystal["perovskite"]("K", "Mg", "F", 4.0)])
    missing = Filter(name="synthesizability", model=tmp_path / "none.ckpt", experiment="tsdnn-synthesizability")
    with pytest.raises(ConfigError, match="sluice experiment tsdnn-synthesizability"):
        score_candidates(
            candidates=path,
            model=screener,
            settings=ScoreSettings(filters=(missing,)),
            device="cpu",
            scored=tmp_path / "o",
        )
    network = CompositionModel(settings={"model": "elemnet", "depth": 3, "task": "classification"})
    save_composition_model(tmp_path / "formulas.ckpt", network, {})
    formulas = Filter(name="synthesizability", model=tmp_path / "formulas.ckpt")
    with pytest.raises(ConfigError, match="a composition model of classification; a filter needs a classifier of"):
        module.load_filter(formulas)
    with pytest.raises(ValueError, match="give `model`"):
        Filter(name="nothing")
