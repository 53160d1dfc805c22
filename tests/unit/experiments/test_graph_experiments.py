"""The experiments with crystal graphs on small made-up data sets, from data to table and model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from mp_data import write_mp_data
from pymatgen.core import Lattice, Structure

from sluice.experiments.experiment import Job, load_experiment
from sluice.experiments.folders import read_metrics
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
