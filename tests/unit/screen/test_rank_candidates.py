"""Ranking by objectives: directions, targets, weights."""

import numpy as np
import pytest

from sluice.config import Objective, ScreenSettings
from sluice.crystals import Crystals
from sluice.errors import ConfigError
from sluice.models.scoring import load_model, score_crystals
from sluice.screen.rank_candidates import NO_OBJECTIVE, combine, desirability, rank_candidates
from sluice.screen.remove_duplicates import DUPLICATE, KNOWN
from sluice.store import Store

ENERGY = "mlip_formation_energy_ev_per_atom"
MINIMIZE = Objective(quantity=ENERGY, direction="minimize")


@pytest.fixture
def rank(write_store, tmp_path):
    def go(batches, known=(), objectives=(MINIMIZE,), name="ranked.h5"):
        paths = [
            write_store(
                f"{name}-{i}.h5",
                "relaxed",
                [row[1] for row in batch],
                [row[0] for row in batch],
                relaxed_space_group=221,
                mlip_formation_energy_ev_per_atom=[row[2] for row in batch],
                volume_change=[row[3] if len(row) > 3 else 1.0 for row in batch],
            )
            for i, batch in enumerate(batches)
        ]
        database = write_store(f"{name}-known.h5", "dataset", list(known), space_group=221)
        rank_candidates(
            candidates=paths,
            known=database,
            earlier=[],
            settings=ScreenSettings(objectives=objectives),
            ranked=tmp_path / name,
        )
        return tmp_path / name

    return go


def test_rank_one_is_the_lowest_energy_and_ties_go_by_id(crystal, rank):
    abx = crystal["perovskite"]
    first = [("b", abx("K", "Mg", "F", 4.0), -3.0), ("a", abx("Rb", "Mg", "F", 4.0), -2.0)]
    second = [("d", abx("Cs", "Mg", "F", 4.0), -2.0), ("c", abx("Na", "Mg", "F", 4.0), -3.5)]
    with Store(rank([first, second]), "ranked") as store:
        assert store.ids() == ["c", "b", "a", "d"]
        assert store.column("rank").tolist() == [1, 2, 3, 4]
        assert store.column("objective").tolist() == pytest.approx([1.0, 2 / 3, 1 / 6, 1 / 6])
        digest = store.content_sha256
    with Store(rank([second, first], name="other_order.h5")) as store:
        assert store.content_sha256 == digest


def test_what_relaxed_into_a_known_crystal_or_another_candidate_is_rejected(crystal, rank, reasons_of):
    abx = crystal["perovskite"]
    rows = [
        ("x", abx("K", "Mg", "F", 4.0), -3.0),
        ("w", abx("K", "Mg", "F", 4.1), -2.9),
        ("v", abx("Rb", "Mg", "F", 4.0), -2.0),
        ("u", abx("Cs", "Mg", "F", 4.0), np.nan),
    ]
    path = rank([rows], known=[abx("Rb", "Mg", "F", 4.2)])
    assert reasons_of(path) == {
        "x": ("rejected", DUPLICATE, "duplicate of w"),
        "v": ("rejected", KNOWN, "same as c000000"),
        "u": ("failed", NO_OBJECTIVE, ""),
    }


def test_desirabilities():
    values = np.array([-3.0, -1.0, -2.0, -1.0])
    assert desirability(values, MINIMIZE).tolist() == pytest.approx([1.0, 1 / 6, 2 / 3, 1 / 6])
    upwards = Objective(quantity="volume_change", direction="maximize")
    assert desirability(values, upwards).tolist() == pytest.approx([0.0, 5 / 6, 1 / 3, 5 / 6])
    target = Objective(quantity="volume_change", target=(1.0, 2.0))
    assert desirability(np.array([1.0, 1.5, 3.0, 0.5]), target).tolist() == pytest.approx([1, 1, 0.5, 2 / 3])
    assert desirability(np.array([5.0]), MINIMIZE).tolist() == [1.0]


def test_weights_decide_between_objectives(crystal, rank):
    abx = crystal["perovskite"]
    rows = [("deep", abx("K", "Mg", "F", 4.0), -3.0, 1.4), ("calm", abx("Rb", "Mg", "F", 4.0), -2.0, 1.0)]

    def order(weight):
        calm = Objective(quantity="volume_change", target=(0.9, 1.1), weight=weight)
        with Store(rank([rows], objectives=(MINIMIZE, calm), name=f"w{weight}.h5")) as store:
            return store.ids()

    assert order(0.1) == ["deep", "calm"]
    assert order(10.0) == ["calm", "deep"]
    both = combine(
        np.array([[-3.0, 1.4], [-2.0, 1.0]]), [MINIMIZE, Objective(quantity="volume_change", target=(0.9, 1.1))]
    )
    assert both.tolist() == pytest.approx([(1 + 0.4) / 2, (0 + 1) / 2])


def test_a_quantity_that_a_store_lacks_names_what_there_is(crystal, rank):
    with pytest.raises(ConfigError, match=r"screen.objectives.0.quantity = 'relaxation_steps'.*volume_change"):
        rank(
            [[("a", crystal["perovskite"]("K", "Mg", "F", 4.0), -1.0)]],
            objectives=(Objective(quantity="relaxation_steps", direction="minimize"),),
        )


def test_a_models_output_can_be_an_objective(crystal, rank, screener):
    abx = crystal["perovskite"]
    rows = [(e, abx(e, "Mg", "F", 4.0), 0.0) for e in ("K", "Rb", "Cs", "Na")]
    by_model = Objective(quantity="output", model=screener, direction="maximize")
    with Store(rank([rows], objectives=(by_model,))) as store:
        outputs = store.column("objective_0_output")
        assert np.all(np.diff(outputs) < 0)
        expected = score_crystals(load_model(screener), store.crystals(), "cpu")
        assert outputs == pytest.approx(expected, rel=1e-5)


def test_nothing_to_rank(rank):
    with Store(rank([[], []]), "ranked") as store:
        assert len(store) == 0
        assert store.counts["in"] == 0


def test_crystals_stay_with_their_rows(crystal, rank):
    abx = crystal["perovskite"]
    elements = ("K", "Rb", "Cs", "Na")
    rows = [(e, abx(e, "Mg", "F", 4.0), float(i)) for i, e in enumerate(elements)]
    with Store(rank([rows[:1], rows[1:]])) as store:
        crystals: Crystals = store.crystals()
        assert crystals.reduced_formulas() == [f"{e}MgF3" for e in elements]
