"""The report of a campaign of compositions, from stores that say what they should."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from formula_stores import ELEMENTS, energy_of, known_formulas, salts, write_formulas
from rich.console import Console

from sluice.attempts import append_event
from sluice.chemistry.composition_store import NOT_ENCODED
from sluice.config import Config
from sluice.errors import SluiceError
from sluice.report.build_composition_report import build_composition_report
from sluice.report.figures_compositions import Scored, calibration, energy_against_deviation
from sluice.report.formulas import read_scored
from sluice.report.summarize import summary_table
from sluice.store import Store, StoreWriter

DRAWN = ["NaF", "MgO", "AlCl3", "Li2O", "NaF", "Al2O3", "MgF2", "NaMg"]
UNIQUE = ["NaF", "MgO", "AlCl3", "Li2O", "Al2O3", "MgF2"]


def make_config(folder: Path, **compositions) -> Config:
    return Config.model_validate(
        {
            "campaign": "tiny",
            "candidates": "compositions",
            "results": str(folder),
            "chemistry": {"elements": list(ELEMENTS)},
            "generate": {"candidates": 10, "batches": 2},
            "compositions": {"data": {"path": str(folder / "t.csv")}} | compositions,
        }
    )


def passing(path: Path, schema: str, formulas: list[str], gone: dict[str, str], *, made: int = 0, **columns) -> None:
    """A store of formulas, and reasons of those that did not go on."""
    plain = write_formulas(path, schema, formulas, **columns)
    with Store(plain) as store:
        rows = store.rows()
    with StoreWriter(path, schema, campaign="test", round_number=1, with_crystals=False) as writer:
        writer.append_chunk(rows)
        writer.drop(list(gone), list(gone.values()))
        writer.count(made=made)


@pytest.fixture
def campaign(tmp_path) -> Path:
    """The working directory of a finished campaign."""
    folder = tmp_path / "tiny"
    screen, train = folder / "round_1/screen/compositions", folder / "round_1/train"
    for path in (folder / "curate", train, folder / "round_1/generate/compositions", screen / "charge"):
        path.mkdir(parents=True)
    known_formulas(folder / "curate/compositions.h5", split=["train"] * 14 + ["test"] * 4)
    test = salts()[14:]
    energies = np.array([energy_of(formula) for formula in test])
    write_formulas(
        train / "composition_scorer_held_out.h5", "composition_predictions", test, split="test", label_source="user",
        formation_energy_ev_per_atom=energies, standard_deviation_ev_per_atom=0.1,
        predicted_formation_energy_ev_per_atom=energies + np.array([0.05, -0.05, 0.15, 0.35]),
    )  # fmt: skip
    for model, columns in (("generator", "critic_loss,val_decodable"), ("scorer", "train_loss,val_mae")):
        (train / f"composition_{model}_metrics.csv").write_text(f"epoch,{columns}\n1,2.0,0.5\n2,1.0,0.6\n")
    for batch in range(2):
        mine = DRAWN[4 * batch : 4 * batch + 4]
        name = f"batch_{batch}.h5"
        passing(
            folder / f"round_1/generate/compositions/{name}", "composition_candidates", mine, {"x": "empty"}, made=5
        )
        good = [formula for formula in mine if formula != "NaMg"]
        gone = {"m": "metals only"} if len(good) < 4 else {}
        passing(screen / f"charge/{name}", "composition_charge", good, gone)
    passing(screen / "unique.h5", "composition_unique", UNIQUE, {"d": "duplicate"})
    scores = {
        "predicted_formation_energy_ev_per_atom": -np.arange(1.0, 7.0),
        "standard_deviation_ev_per_atom": np.full(6, 0.2),
    }
    passing(screen / "scored.h5", "composition_scored", UNIQUE, {}, **scores)
    best = {name: values[[5, 4]] for name, values in scores.items()}
    passing(
        screen / "shortlist.h5", "composition_shortlist", UNIQUE[:3:-1], {f"b{k}": "below" for k in range(4)}, **best,
        rank=[1, 2], acquisition_ev_per_atom=[-6.2, -5.2], elements=["F-Mg", "Al-O"],
        nearest_known=["NaMgF3", "LiAlO2"], element_movers_distance=[3.5, 1.25],
    )  # fmt: skip
    event = {"event": "start", "attempt": "a", "job": "score_compositions/round_1", "step": "score_compositions"}
    append_event(folder / "attempts.jsonl", event | {"host": "node", "pid": 1, "pid_started": 1.0})
    append_event(folder / "attempts.jsonl", {"event": "end", "attempt": "a", "outcome": "done", "cpu_seconds": 12.5})
    return folder


def build(folder: Path, config: Config) -> Path:
    report = folder / "report"
    build_composition_report(
        compositions=folder / "curate/compositions.h5", configuration=config, html=report / "index.html",
        summary=report / "summary.json", table=report / "shortlist.csv",
    )  # fmt: skip
    return report


def test_page_summary_and_table(campaign, tmp_path):
    report = build(campaign, make_config(tmp_path))
    summary = json.loads((report / "summary.json").read_text())
    assert [row["out"] for row in summary["funnel"]] == [8, 7, 6, 6, 2]
    assert summary["funnel"][0]["reasons"] == {"empty": 2} and summary["cpu_seconds"] == {"score_compositions": 12.5}
    assert [row["step"] for row in summary["database"]] == ["collect_compositions"]
    assert summary["held_out"]["mean_absolute_error_ev_per_atom"] == 0.15
    assert (summary["held_out"]["within_1"], summary["held_out"]["within_2"]) == (0.5, 0.75)
    with (report / "shortlist.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["rank"], row["formula"], row["nearest_known"]) for row in rows] == [
        ("1", "MgF2", "NaMgF3"), ("2", "Al2O3", "LiAlO2"),
    ]  # fmt: skip
    assert rows[0]["predicted_formation_energy_ev_per_atom"] == "-6.0"
    page = (report / "index.html").read_text(encoding="utf-8")
    for text in ("Structures are not predicted yet", "Al<sub>2</sub>O<sub>3</sub>", "−6.000", "50 % lie within one",
                 "round_1/screen/compositions/shortlist.h5", "metals only", 'id="scores"', 'id="elements_ratio"',
                 ):  # fmt: skip
        assert text in page, text
    assert page.count("Nothing to draw") == 0
    console = Console(width=120, record=True)
    console.print(summary_table(summary))
    assert "2 formulas on the shortlist" in console.export_text()


def test_page_says_what_the_scorer_cannot_take(campaign, tmp_path):
    page = (build(campaign, make_config(tmp_path)) / "index.html").read_text(encoding="utf-8")
    assert "had no part in the scorer" not in page
    path = campaign / "round_1/train/composition_scorer_held_out.h5"
    with Store(path) as store:
        rows = store.rows()
    with StoreWriter(path, "composition_predictions", campaign="test", round_number=1, with_crystals=False) as writer:
        writer.append_chunk(rows)
        writer.drop([f"u{k}" for k in range(7)], NOT_ENCODED, kind="failed", detail=["9 Li"] + ["no He"] * 6)
        writer.drop(["h"], "no prediction", kind="failed", detail="trained on no K")
    report = build(campaign, make_config(tmp_path))
    assert json.loads((report / "summary.json").read_text())["not_encoded"] == {"no He": 6, "9 Li": 1}
    page = " ".join((report / "index.html").read_text(encoding="utf-8").split())
    assert "formulas 7 had no part in the scorer's training and test" in page
    assert "for its encoding cannot hold them: no He (6), 9 Li (1)." in page


@pytest.mark.parametrize(
    ("exploration", "words"),
    [(0.0, "the lowest mean, at most"), (2.0, "mean − 2 × standard"), (-1.5, "mean + 1.5 × standard")],
)
def test_page_says_what_was_ranked_by(campaign, tmp_path, exploration, words):
    report = build(campaign, make_config(tmp_path, shortlist={"exploration": exploration}))
    assert words in " ".join((report / "index.html").read_text(encoding="utf-8").split())


def test_candidates_that_vanished_stop_it(campaign, tmp_path):
    passing(campaign / "round_1/screen/compositions/scored.h5", "composition_scored", UNIQUE[:5], {})
    with pytest.raises(SluiceError, match=r"score_compositions.*: 5 candidates came in, but 6 left"):
        build(campaign, make_config(tmp_path))


def test_a_campaign_in_which_nothing_was_left(campaign, tmp_path):
    screen = campaign / "round_1/screen/compositions"
    passing(screen / "unique.h5", "composition_unique", [], {f"d{k}": "duplicate" for k in range(7)})
    for name in ("scored", "shortlist"):
        passing(screen / f"{name}.h5", f"composition_{name}", [], {})
    page = (build(campaign, make_config(tmp_path)) / "index.html").read_text(encoding="utf-8")
    assert "No formula was left in this campaign" in page


def test_calibration_without_deviations_or_formulas():
    assert calibration(Scored([], *(np.zeros(0),) * 3)) == {"formulas": 0}
    found = calibration(Scored(["a", "b"], np.array([1.0, 2.0]), np.zeros(2), np.array([1.5, 2.0])))
    assert found["within_1"] is None and found["mean_absolute_error_ev_per_atom"] == 0.25


def test_line_of_equal_acquisition_goes_through_the_last_one():
    scored = Scored(["a", "b"], np.array([-1.0, -3.0]), np.array([0.5, 0.1]), total=2)
    figure = energy_against_deviation(
        scored, Scored(["b"], np.array([-3.0]), np.array([0.1]), total=1), exploration=2.0
    )
    x, y = (np.array(values) for values in (figure.data[2].x, figure.data[2].y))
    np.testing.assert_allclose(x - 2.0 * y, -3.2)


def test_large_stores_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr("sluice.report.formulas.MOST_READ", 7)
    path = write_formulas(tmp_path / "s.h5", "composition_scored", salts())
    found = read_scored([path])
    assert found.total == 18 and found.formulas == salts()[::3] and len(found.predicted) == 6
