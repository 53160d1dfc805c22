"""The comparison of the experiment with candidates: which classifier each row and each model file is of."""

import pandas as pd
import pytest

from sluice.experiments.folders import write_metrics
from sluice.experiments.tsdnn_candidates import CandidateConfig
from sluice.experiments.tsdnn_candidates_compare import compare
from sluice.experiments.tsdnn_candidates_runs import ADAPTED, CLASSIFIERS, KNOWN

# Two oxides below zero, two fluorides above; the authors' score orders one pair the wrong way round.
IDS = ["8-MgO-225-1", "8-CaO-225-2", "8-LiF-225-3", "8-NaF-225-4"]
ENERGY = [-2.0, -1.0, 1.0, 2.0]
AUTHORS = [0.9, 0.2, 0.3, 0.1]
SCORES = {ADAPTED: [0.9, 0.8, 0.2, 0.1], "unseparated_touching": [0.1, 0.2, 0.8, 0.9]}
STRAINED = {"unseparated": 0.6, "unseparated_touching": 0.9, "separated": 0.99}


@pytest.fixture
def found(tmp_path):
    runs = {}
    for name in (*CLASSIFIERS, ADAPTED):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        table = {"id": IDS, "score": SCORES.get(name, [0.5] * 4), "formation_energy_ev_per_atom": ENERGY}
        pd.DataFrame(table | {"authors_score": AUTHORS}).to_csv(run / "candidates.csv", index=False)
        metrics = {"n_train": 100, "val_strained_roc_auc": STRAINED.get(name), "test_roc_auc": 0.9}
        metrics |= {"test_accuracy": 0.8} | ({"n_candidates": 3} if name == ADAPTED else {})
        write_metrics(run, metrics)
        runs[name] = [run]
    known = {"formula": ["LiF", "MgO"], "authors_ev_per_atom": [1.0, -2.0], "mp_ev_per_atom": [-3.0, -3.0]}
    pd.DataFrame(known).to_csv(tmp_path / KNOWN, index=False)
    config = CandidateConfig(experiment="tsdnn-candidates", title="t", paper="p")
    return compare(config, tmp_path, runs), runs


def test_the_goals_rows_are_of_the_classifier_that_learnt_from_other_candidates(found):
    comparison, runs = found
    rows = {row.quantity: row for row in comparison.rows}
    row = rows["ROC AUC for E_f < 0"]
    assert (row.sluice_mean, row.paper, row.n_train, row.n_test) == (1.0, 0.75, 103, 4)
    assert "folds by composition" in row.note
    assert rows["precision among the top half"].sluice_mean == 1.0
    assert comparison.model == runs[ADAPTED][0] / "model.ckpt"


def test_rows_without_any_candidates_label_stand_beside_them(found):
    comparison, runs = found
    rows = {row.quantity: row for row in comparison.rows}
    row = rows["ROC AUC for E_f < 0, no candidate's label seen"]
    assert (row.sluice_mean, row.n_train) == (0.0, 100)
    assert "materials only" in row.note
    chosen = comparison.files["model_without_dft_labels.ckpt"]
    assert chosen == runs["unseparated_touching"][0] / "model.ckpt", "chosen on materials, of the sign of E_f"


def test_what_the_labels_hold_is_said(found):
    text = " ".join(found[0].analysis)
    assert "100.0% of the candidates with O" in text and "0.0% of the candidates with F" in text
    assert "+4.0 eV/atom (median) above" in text
    assert "It reaches 1.000" in text and "It reaches 0.000, the authors' own score 0.750" in text
