"""The experiment on formation energies, on made-up ones."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sluice.errors import BadDataError
from sluice.experiments.elemnet import EXPERIMENT, ElemnetConfig, load_table, thinned
from sluice.experiments.experiment import Job
from sluice.experiments.folders import read_metrics
from sluice.experiments.plan import load_experiment_config, plan_experiment
from sluice.models.modelfile import load_model

CONFIG = Path(__file__).parents[3] / "config" / "experiments" / "elemnet.yaml"


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["formula,e_form", "Fe1,0.0", "Na2Cl2,-0.5", "Na1Cl1,-1", "Mg1O1,"]
    for _ in range(150):
        a, b, n = rng.choice(["Li", "Na", "K", "Ca"]), rng.choice(["O", "F", "S"]), rng.integers(1, 9)
        lines.append(f"{a}{n}{b}{rng.integers(1, 9)},{-n / 10:.3f}")
    folder = tmp_path / "oqmd_formation"
    folder.mkdir()
    with gzip.open(folder / "oqmd_compositions.csv.gz", "wt") as handle:
        handle.write("\n".join(lines))
    return folder


def config_for(source, **settings):
    network = {
        "epochs": 2,
        "batch_size": 32,
        "depth": 3,
        "size": 8,
        "messages": 1,
        "heads": 1,
        "hidden": 8,
        "trunk": [8],
    }
    values = {
        "experiment": "elemnet", "title": "t", "paper": "p",
        "goals": [{"quantity": "Roost MAE", "at_most": 1e-9}, {"quantity": "ElemNet MAE", "at_most": 1e-9},
                  {"quantity": "gradient boosting MAE", "at_most": 1e9},
                  {"quantity": "random forest MAE", "at_most": 1e-9}],
        "data_folders": {"oqmd_formation": str(source)},
        "device": "cpu",
        "repeats": 2,
        "settings": {
            "elemnet": {"model": "elemnet", **network}, "roost": {"model": "roost", **network}, "depths": [2],
            "depth_epochs": 1, "shares": [0.3, 0.5], "share_epochs": 1, "trees": 5, **settings,
        },
    }  # fmt: skip
    return ElemnetConfig.model_validate(values)


def test_from_data_to_comparison(source, tmp_path):
    config = config_for(source)
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    EXPERIMENT.prepare(config, prepared)
    table = load_table(prepared / "table.npz")
    energies = dict(zip(table.compositions.formulas(), table.target.tolist(), strict=True))
    assert energies["NaCl"] == -1 and "Fe" not in energies and "OMg" not in energies
    runs = {}
    for part in EXPERIMENT.parts(config):
        for repeat in range(part.repeats):
            folder = tmp_path / f"{part.variant}_{repeat}"
            folder.mkdir()
            needed = {name: runs[name] for name in part.needs}
            job = Job(part.variant, repeat, 2026 + repeat, prepared, needed, folder, tmp_path / "ck" / folder.name, 1)
            EXPERIMENT.run(config, job)
            runs.setdefault(part.variant, []).append(folder)
    found = EXPERIMENT.compare(config, prepared, runs)
    quantities = [row.quantity for row in found.rows]
    assert quantities[:3] == ["ElemNet MAE", "Roost MAE", "Roost MAE, ensemble"]
    ensemble, alone = (np.mean([read_metrics(r)["test_mae"][0] for r in runs[name]]) for name in ("ensemble", "roost"))
    assert ensemble <= alone
    assert "ElemNet MAE, depth 2" in quantities and "ElemNet MAE, 0.5 of the training rows" in quantities
    assert set(found.figures) == {"Error against depth", "Learning curve", "Error against epochs"}
    assert all(np.isfinite(row.sluice_mean) for row in found.rows)
    assert load_model(found.model).kind == "composition"
    text = " ".join(found.analysis)
    assert text.count("is missed") == 3 and "The goal random forest MAE" in text
    assert "The goal Roost MAE ≤ 1e-09 is missed" in text
    history = pd.read_csv(runs["roost"][0] / "history.csv").iloc[-1]
    assert f"is {history['train_loss'] / history['val_loss']:.0%} of the validation loss" in text
    errors = [read_metrics(run)["test_mae"][0] for run in runs["share"]]
    assert (
        text.count(f"the power {np.log(errors[1] / errors[0]) / np.log(0.5 / 0.3):.2f} of") == 1
    )  # ElemNet's goal only
    assert read_metrics(runs["share"][0])["n_train"][0] < read_metrics(runs["elemnet"][0])["n_train"][0]


def test_smaller_shares_are_parts_of_larger_ones_and_keep_the_test_rows(source, tmp_path):
    EXPERIMENT.prepare(config_for(source), tmp_path)
    table = load_table(tmp_path / "table.npz")
    sets = [set(thinned(table, share, 1).compositions.formulas()) for share in (0.1, 0.5, 1.0)]
    assert sets[0] < sets[1] < sets[2] == set(table.compositions.formulas())
    held_out = set(table[table.rows("test")].compositions.formulas())
    assert held_out < sets[0]


def test_bad_formulas_stop_it(source, tmp_path):
    path = source / "oqmd_compositions.csv.gz"
    with gzip.open(path, "wt") as handle:
        handle.write("formula,e_form\n" + "Xx,1\n" * 5 + "NaCl,1\n" * 5)
    with pytest.raises(BadDataError, match="'Xx' is no element"):
        EXPERIMENT.prepare(config_for(source), tmp_path)


def test_without_any_energy(source, tmp_path):
    with gzip.open(source / "oqmd_compositions.csv.gz", "wt") as handle:
        handle.write("formula,e_form\nNaCl,\nMgO,\n")
    with pytest.raises(BadDataError, match="no row has a number in e_form"):
        EXPERIMENT.prepare(config_for(source), tmp_path)


def test_there_is_no_wgan_to_take_vectors_from(source):
    with pytest.raises(ValueError, match=r"elemnet.encoding = 'embedding' needs the vectors that a WGAN learns"):
        config_for(source, elemnet={"model": "head", "encoding": "embedding"})


def test_the_configuration_fits_the_cap():
    experiment, config = load_experiment_config(CONFIG)
    assert experiment.cpu_hours(plan_experiment(experiment, config, "default")) <= config.cpu_hours
    assert experiment.cpu_hours(plan_experiment(experiment, config, "quick")) < 0.2
    assert experiment.cpu_hours(config) > config.cpu_hours
