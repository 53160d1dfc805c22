"""The experiments with crystal graphs on small made-up data sets, from data to table and model."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from mp_data import write_mp_data
from pymatgen.core import Lattice, Structure
from sklearn.metrics import roc_auc_score

from sluice.errors import BadDataError
from sluice.experiments.experiment import Job, load_experiment
from sluice.experiments.folders import read_metrics
from sluice.experiments.mp_structures import TABLE
from sluice.experiments.tsdnn_synthesizability_authors import FILES, authors_called
from sluice.experiments.tsdnn_synthesizability_runs import (
    NO_BINARIES,
    SPLITS,
    Tables,
    elements,
    read_scores,
    tpr_at_precision,
)
from sluice.models.scoring import score_input

TINY = {"hidden_size": 8, "head_size": 8, "convolutions": 1, "gaussians": 10, "epochs": 2, "batch_size": 16}
GRAPHS = {"neighbours": 6, "cutoff": 8.0}
SETTINGS = {
    "cgcnn-gatgnn": {
        "graphs": GRAPHS, "gaussians": 10, "hidden_size": 8, "head_size": 8, "layers": 1, "heads": 2, "epochs": 2,
        "batch_size": 16,
    },
    "tsdnn-stability": {"graphs": GRAPHS, "training": TINY, "unlabelled": 10},
    "tsdnn-synthesizability": {
        "graphs": GRAPHS, "training": TINY, "bags": 3, "bag_epochs": 2, "bag_batch_size": 16,
        "mining_bags": 2, "mining_epochs": 2,
    },
}  # fmt: skip
GOALS = {
    "cgcnn-gatgnn": "test MAE, CGCNN, formation energy",
    "tsdnn-stability": "accuracy gain over regression, E_f < 0",
    "tsdnn-synthesizability": "TPR on test positives, TSDNN",
}


@pytest.fixture(scope="module", params=SETTINGS)
def done(request, tmp_path_factory):
    """Name, configuration, folder of the prepared data, runs by variant and the comparison of one experiment."""
    name, root = request.param, tmp_path_factory.mktemp(request.param)
    experiment = load_experiment(name)
    config = experiment.config_type(
        experiment=name, title="small", paper="nobody", device="cpu", settings=SETTINGS[name],
        data_folders=write_mp_data(root / "data"), goals=[{"quantity": GOALS[name], "at_least": 1e9}],
    )  # fmt: skip
    prepared = root / "prepared"
    prepared.mkdir()
    experiment.prepare(config, prepared)
    runs = {}
    for part in experiment.parts(config):
        folder = root / "runs" / part.variant
        folder.mkdir(parents=True)
        needed = {variant: runs[variant] for variant in part.needs}
        experiment.run(
            config,
            Job(
                variant=part.variant, repeat=0, seed=config.seed, prepared=prepared, needed=needed, folder=folder,
                checkpoints=root / "checkpoints" / part.variant, threads=1,
            ),
        )  # fmt: skip
        runs[part.variant] = [folder]
    return name, config, runs, experiment.compare(config, prepared, runs)


def test_every_row_has_a_number(done):
    name, _, _, comparison = done
    rows = {row.quantity: row for row in comparison.rows}
    assert len(rows) == len(comparison.rows), "no quantity twice"
    assert np.isfinite(rows[GOALS[name]].sluice_mean)
    assert all(np.isfinite(row.sluice_mean) for row in comparison.rows), rows
    assert "Learning curve" in comparison.figures


def test_a_missed_goal_comes_with_its_cause(done):
    name, _, runs, comparison = done
    text = " ".join(comparison.analysis)
    assert f"{GOALS[name]}" in text and "≥ 1e+09" in text and "issed" in text
    if name == "tsdnn-stability":
        right = read_metrics(runs["unseparated_regression"][0])["test_accuracy"][0]
        assert f"would gain {100 * (1 - right):.1f} points" in text
    if name == "tsdnn-synthesizability":
        assert "TSDNN passed 2 times over" in text
    if name == "cgcnn-gatgnn":
        history = pd.read_csv(runs["cgcnn_formation"][0] / "history.csv").iloc[-1]
        assert f"is {history['train_loss'] / history['val_loss']:.0%} of the validation loss" in text


@pytest.mark.parametrize("done", ["cgcnn-gatgnn"], indirect=True)
def test_the_page_says_how_many_of_the_listed_materials_are_at_hand(done):
    """All sixty are listed and have a structure; a label is taken away, and another release given to every second."""
    name, config, runs, comparison = done
    text = " ".join(comparison.analysis)
    said = "of 60 materials in the paper's list for the band gap 60 have a structure here, 60 of these a label, and"
    assert f"{said} 60 are used" in text
    assert "another release" not in text, "no material has both energies"
    path = config.data_folders["mp_structures"] / TABLE
    before = path.read_bytes()
    table = pd.read_csv(path)
    table["e_form_mp20"] = np.where(np.arange(60) % 2, table["e_form"] + 0.25, np.nan)
    table.loc[3, "band_gap"] = np.nan
    table.to_csv(path, index=False)
    prepared = runs["cgcnn_gap"][0].parents[1] / "prepared"
    try:
        again = " ".join(load_experiment(name).compare(config, prepared, runs).analysis)
    finally:  # the tests after this one see the same data
        path.write_bytes(before)
    assert "60 have a structure here, 59 of these a label, and 60 are used" in again
    assert "over the 30 materials with both they differ by 0.250 eV/atom on average, 0.250 in the median" in again


@pytest.mark.parametrize("done", ["tsdnn-synthesizability"], indirect=True)
def test_learning_without_labelled_binaries(done):
    """The balanced table's rows but for those of two elements are learnt from; the test table is the same."""
    _, config, runs, comparison = done
    prepared = runs["test"][0].parents[1] / "prepared"
    data = Tables(config, prepared)
    known = data.rows(SPLITS["test"][0])[0]
    outside = ~np.isin(known, data.rows(SPLITS["test"][1])[0])
    n = int((outside & (elements(data.graphs, known) != 2)).sum())
    assert 0 < n < outside.sum()
    found, usual = (read_metrics(runs[variant][0]) for variant in (NO_BINARIES, "test"))
    assert found["n_train"] == [n - int(n * config.settings.validation_share)]
    assert found["binary_learnt"] == found["binary_negative"] == [0.0]
    assert usual["binary_learnt"][0] + usual["binary_negative"][0] > 0
    (score, label), (other, same) = (read_scores(runs[variant][0]) for variant in (NO_BINARIES, "test"))
    assert label.tolist() == same.tolist() and score.tolist() != other.tolist()
    rows, words = {row.quantity: row for row in comparison.rows}, "TSDNN without labelled binaries"
    assert rows[f"TPR on test positives, {words}"].sluice_mean == found["tpr"][0]
    at = rows[f"TPR on test positives at the PU baseline's precision, {words}"]
    assert at.sluice_mean == tpr_at_precision(score, label, read_metrics(runs["bags"][0])["precision"][0])
    said = f"calls {found['tpr'][0]:.1%} of the test positives positive (with them {usual['tpr'][0]:.1%})"
    assert any(said in paragraph for paragraph in comparison.analysis)


@pytest.mark.parametrize("done", ["tsdnn-synthesizability"], indirect=True)
def test_the_authors_predictions_stand_beside_ours_on_the_same_rows(done):
    """They call all positives but one, and nothing else; one of their positives has no structure here."""
    _, config, runs, comparison = done
    rows = {row.quantity: row for row in comparison.rows}
    for title, run in (("time split", runs["time"][0]), ("element hold-out", runs["elements"][0])):
        label = read_scores(run)[1]
        n = int((label == 1).sum())
        recall = rows[f"TPR on {title}, TSDNN"]
        assert recall.paper == pytest.approx((n - 1) / n) and recall.n_test == n
        assert f"(on all of theirs {n / (n + 1):.4f})" in recall.note
        others = rows[f"share called positive of the others in the test table, {title}, TSDNN"]
        assert others.paper == 0.0 and others.n_test == len(label) - n and "on all of theirs 0.0000" in others.note
        area = rows[f"ROC AUC of positives against the others, {title}, TSDNN"]
        assert area.paper == 1.0 and area.sluice_mean == roc_auc_score(label == 1, read_scores(run)[0])
        assert area.n_test == len(label)
        said = f"the authors' {100 * (n - 1) / n:.1f} on the same rows and {100 * n / (n + 1):.1f} on all of theirs"
        assert any(f"By the {title} ours is" in text and said in text for text in comparison.analysis)
    folder = config.data_folders["tsdnn_labels"] / "paper_results"
    prepared = runs["test"][0].parents[1] / "prepared"
    folder.rename(folder.with_name("away"))
    try:
        without = load_experiment("tsdnn-synthesizability").compare(config, prepared, runs)
    finally:
        folder.with_name("away").rename(folder)
    assert {row.paper for row in without.rows if "time split" in row.quantity} == {None}
    assert not any("the authors'" in text and "By the time split" in text for text in without.analysis)
    path = folder / FILES["time"]
    before = path.read_bytes()
    path.write_bytes(gzip.compress(b"id,p\nmp-1,0.5\n"))
    try:
        with pytest.raises(BadDataError, match="no columns MPID and Score; there are id, p"):
            authors_called(config, prepared, "time")
    finally:
        path.write_bytes(before)


def test_the_cost_grows_with_epochs(done):
    name, config, _, _ = done
    key = "training" if "training" in SETTINGS[name] else None
    more = {**SETTINGS[name], **({key: {**TINY, "epochs": 20}} if key else {"epochs": 20})}
    experiment = load_experiment(name)
    assert experiment.cpu_hours(config.model_copy(update={"settings": type(config.settings)(**more)})) > (
        experiment.cpu_hours(config)
    )


def test_the_model_scores_a_folder_of_crystals(done, tmp_path):
    _, _, _, comparison = done
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (tmp_path / "crystals").mkdir()
    cell.to(filename=str(tmp_path / "crystals" / "salt.cif"))
    (tmp_path / "crystals" / "broken.cif").write_text("no crystal")
    score_input(comparison.model, tmp_path / "crystals", tmp_path / "scores.csv", device="cpu")
    table = pd.read_csv(tmp_path / "scores.csv").set_index("id")
    assert np.isfinite(table.loc["salt", "score"])
    assert np.isnan(table.loc["broken", "score"])
