"""The best by score, not too many of one formula, dealt to batches."""

import numpy as np
import pytest

from sluice.config import RelaxSettings
from sluice.crystals import Crystals
from sluice.screen import select_candidates as module
from sluice.screen.select_candidates import BELOW_CUT, ENOUGH_OF_FORMULA, select_candidates
from sluice.store import Store


@pytest.fixture
def scored(crystal, write_store):
    """Eight crystals of three formulas; c0 has the best score."""
    k = [crystal["perovskite"]("K", "Mg", "F", a) for a in (3.9, 4.0, 4.1, 4.2)]
    rb = [crystal["perovskite"]("Rb", "Mg", "F", a) for a in (4.0, 4.1)]
    cs = [crystal["perovskite"]("Cs", "Mg", "F", a) for a in (4.0, 4.1)]
    scores = [0.99, 0.98, 0.97, 0.50, 0.90, 0.40, 0.80, 0.30]
    return write_store("scored.h5", "scored", [*k, *rb, *cs], [f"c{i}" for i in range(8)], screener_score=scores)


def test_each_reason(scored, reasons_of, tmp_path):
    settings = RelaxSettings(candidates=4, max_per_formula=2, batches=2)
    select_candidates(candidates=scored, settings=settings, selected=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5", "selected") as store:
        assert store.ids() == ["c0", "c1", "c4", "c6"]
        assert store.column("batch").tolist() == [0, 1, 0, 1]
        assert store.column("screener_score").tolist() == [0.99, 0.98, 0.90, 0.80]
    found = {name: reason for name, (_, reason, _) in reasons_of(tmp_path / "out.h5").items()}
    assert found == {"c2": ENOUGH_OF_FORMULA, "c3": BELOW_CUT, "c5": BELOW_CUT, "c7": BELOW_CUT}


def test_fewer_candidates_than_asked_for(scored, reasons_of, tmp_path):
    settings = RelaxSettings(candidates=100, max_per_formula=3, batches=3)
    select_candidates(candidates=scored, settings=settings, selected=tmp_path / "out.h5")
    assert {n: r[1] for n, r in reasons_of(tmp_path / "out.h5").items()} == {"c3": ENOUGH_OF_FORMULA}


def test_equal_scores_are_decided_by_id(crystal, write_store, tmp_path):
    structures = [crystal["perovskite"](a, "Mg", "F", 4.0) for a in ("K", "Rb", "Cs")]
    path = write_store("scored.h5", "scored", structures, ["z", "a", "m"], screener_score=0.5)
    select_candidates(candidates=path, settings=RelaxSettings(candidates=2), selected=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5") as store:
        assert store.ids() == ["a", "m"]


def test_working_in_parts_finds_the_same_best():
    rng = np.random.default_rng(2)
    entries = [(-float(rng.integers(40)), f"{i:03d}".encode(), f"F{rng.integers(25)}") for i in range(400)]
    whole = module.best(entries, most=30, most_per_formula=2)
    in_parts: list[module.Entry] = []
    for start in range(0, 400, 37):
        in_parts = module.best(in_parts + entries[start : start + 37], most=30, most_per_formula=2)
    assert in_parts == whole
    assert len(whole) == 30


def test_no_candidates_no_selection(write_store, tmp_path):
    path = write_store("scored.h5", "scored", Crystals.empty())
    select_candidates(candidates=path, settings=RelaxSettings(), selected=tmp_path / "out.h5")
    with Store(tmp_path / "out.h5", "selected") as store:
        assert len(store) == 0
