"""The experiments `wgan` and `matgan` on small data: preparation, every job, the comparison."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from sluice.chemistry.compositions import Compositions
from sluice.errors import BadDataError
from sluice.experiments import matgan, wgan, wgan_runs
from sluice.experiments.composition_gan_data import (
    encodable,
    load_compositions,
    read_experimental_formulas,
    read_oqmd_formulas,
    read_property,
)
from sluice.experiments.composition_gan_runs import FORMULAS_FILE
from sluice.experiments.experiment import Job
from sluice.experiments.folders import write_metrics
from sluice.experiments.plan import load_experiment_config
from sluice.models.modelfile import load_model

METALS, ANIONS = ("Li", "Na", "K", "Mg", "Ca", "Sr", "Fe", "Cu"), ("O", "S", "Se", "F", "Cl")
FORMULAS = [f"{m}{a}{x}{b}" for m, x in itertools.product(METALS, ANIONS) for a, b in ((1, 1), (2, 1), (1, 2), (2, 3))]
GAN = {"batch_size": 32, "steps": 6, "noise_size": 8}


@pytest.fixture
def folders(tmp_path):
    """The data sets, with values that follow the composition, and rows that are to be left out."""
    values = [0.1 * (k % 17) for k in range(len(FORMULAS))]
    names = ("mp_properties", "supercon", "oqmd_formation", "synthesizability_kaist")
    found = {name: tmp_path / name for name in names}
    for folder in found.values():
        folder.mkdir()

    def write(name, file, formula, value, extra=()):
        frame = pd.DataFrame({formula: FORMULAS, value: values})
        frame = pd.concat([frame, pd.DataFrame(list(extra), columns=[formula, value])])
        frame.to_csv(found[name] / file, index=False)

    write("mp_properties", "mp-non-metals.csv.gz", "composition", "band_gap", [("KrF2", 9.0), ("Si", 1.1)])
    write(
        "supercon",
        "Supercon_data.csv.gz",
        "name",
        "Tc",
        [("La1.85Sr0.15CuO4", 38.0), ("Nb3Sn", 0.0), ("V3Si", 17.0), ("V6Si2", 0.0)],
    )
    extra = [("Fe", 0.0), ("Fe12O13", -1.0), ("MgSe9", None), ("LiNa", None), ("Li3Na2", 1e3)]
    write("oqmd_formation", "oqmd_compositions.csv.gz", "formula", "e_form", extra)
    write("synthesizability_kaist", "MP_icsd_CLscore.csv.gz", "composition", "CLscore", [("Mg2O2", 0.1)])
    return found


def job(config, folder, variant, needed=None):
    run = folder / variant
    run.mkdir(parents=True)
    return Job(variant, 0, config.seed, folder / "prepared", needed or {}, run, folder / "checkpoints" / variant, 1)


def run_all(experiment, config, folder):
    (folder / "prepared").mkdir(parents=True)
    experiment.prepare(config, folder / "prepared")
    runs = {}
    for part in experiment.parts(config):
        made = job(config, folder, part.variant, {name: runs[name] for name in part.needs})
        experiment.run(config, made)
        runs[part.variant] = [made.folder]
    return experiment.compare(config, folder / "prepared", runs)


def test_oqmd_leaves_out_elements_outliers_and_large_counts(folders):
    found = read_oqmd_formulas(folders["oqmd_formation"], None, 1)
    assert len(found) == len(FORMULAS) + 1  # LiNa, which has no energy
    assert len(read_oqmd_formulas(folders["oqmd_formation"], 20, 1)) == 20


def test_oqmd_with_too_many_unreadable_formulas(folders):
    """Rows without an energy are no mistakes; formulas that cannot be read are, with and without one."""
    path = folders["oqmd_formation"] / "oqmd_compositions.csv.gz"
    frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    many = pd.DataFrame({"formula": ["NaCl", *["MgO"] * 300], "e_form": ["-1.5", *[""] * 300]})
    pd.concat([frame, many]).to_csv(path, index=False)
    compositions, energy = read_property("oqmd", folders["oqmd_formation"], None, 1)
    found = dict(zip(compositions.formulas(), energy.tolist(), strict=True))
    assert found["NaCl"] == -1.5 and found["OMg"] < 1.7, "the lowest one of each, of those that have one"
    wrong = pd.DataFrame({"formula": ["Xx"] * 30, "e_form": [*["1"] * 15, *[""] * 15]})
    pd.concat([frame, many, wrong]).to_csv(path, index=False)
    for read in (read_oqmd_formulas, lambda *given: read_property("oqmd", *given)):
        with pytest.raises(BadDataError, match=r"30 of \d+ rows cannot be used(.|\n)*'Xx' is no element"):
            read(folders["oqmd_formation"], None, 1)


def test_superconductors_without_a_tc_are_left_out(folders):
    """Zero stands for none: it neither becomes a value nor lowers the mean of its composition."""
    compositions, target = read_property("supercon", folders["supercon"], None, 1)
    found = dict(zip(compositions.formulas(), target.tolist(), strict=True))
    assert "Nb3Sn" not in found and found["SiV3"] == 17.0 and min(found.values()) > 0


def test_known_crystals_are_neutral_and_counted_once(folders):
    found, counts = read_experimental_formulas(folders["synthesizability_kaist"])
    assert counts["rows"] == len(FORMULAS) + 1
    assert counts["compositions"] == counts["encodable"] == len(FORMULAS) and counts["unreadable"] == 0
    assert len(found) == counts["valid"]
    texts = set(found.formulas())
    assert {"OMg", "Li2O", "FNa"} <= texts
    assert not {"FMg2", "Li2F3", "F2K"} & texts


def add_known_crystals(folders, formulas):
    path = folders["synthesizability_kaist"] / "MP_icsd_CLscore.csv.gz"
    frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    pd.concat([frame, pd.DataFrame({"composition": formulas, "CLscore": "0.1"})]).to_csv(path, index=False)


def test_known_crystals_whose_formulas_cannot_be_read(folders, tmp_path):
    prepared, config = tmp_path / "prepared", {"experiment": "matgan", "title": "t", "paper": "p"}
    config = matgan.MatganConfig.model_validate(config | {"device": "cpu", "data_folders": folders})

    def first_words():
        prepared.mkdir(exist_ok=True)
        matgan.EXPERIMENT.prepare(config, prepared)
        return matgan._analysis(config, prepared, [])[0]

    assert "cannot be read" not in first_words()
    add_known_crystals(folders, ["Xx2O", "Na(Cl"])
    _, counts = read_experimental_formulas(folders["synthesizability_kaist"])
    assert counts["rows"] == len(FORMULAS) + 3 and counts["unreadable"] == 2 and counts["compositions"] == len(FORMULAS)
    assert "with an ICSD number (the formulas of 2 cannot be read) 160 are different" in first_words()
    add_known_crystals(folders, ["Xx"] * 20)
    with pytest.raises(BadDataError, match=r"22 of 183 rows cannot be used(.|\n)*row 163: 'Xx2O': 'Xx' is no element"):
        first_words()


def test_encodable_merges_equal_ratios():
    assert len(encodable(Compositions.from_formulas(["FeO", "Fe2O2", "KrF2", "Fe9O2", "Fe"]))) == 1


def test_families_of_superconductors():
    formulas = ["Ba0.6K0.4Fe2As2", "FeSe", "YBa2Cu3O7", "Nb3Sn", "LaFeAsO", "CuS"]
    classes = wgan_runs.superconductor_classes(Compositions.from_formulas(formulas))
    assert [wgan_runs.CLASSES[k] for k in classes] == [
        "iron-based", "iron-based", "copper-based", "other", "iron-based", "other",
    ]  # fmt: skip


def test_purity_of_separate_and_mixed_families():
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], 40)
    apart = rng.normal(size=(120, 2)) + 100 * classes[:, None]
    assert wgan_runs.purity(apart, classes) == 1.0
    assert wgan_runs.purity(rng.normal(size=(120, 2)), classes) < 0.5


def test_splits_are_disjoint_and_differ():
    training, validation, test = wgan_runs.splits(50, 3, (0.1, 0.2), 1)
    assert (training.shape, validation.shape, test.shape) == ((3, 35), (3, 5), (3, 10))
    for k in range(3):
        assert sorted([*training[k], *validation[k], *test[k]]) == list(range(50))
    assert not np.array_equal(test[0], test[1])


def sizes_of_layers(generator):
    """Rows and columns of the first layer's input and of every layer's output."""
    found = [tuple(generator.start[1:])]
    for layer in generator.layers:
        layer.register_forward_hook(lambda _, __, output: found.append(tuple(output.shape[2:])))
    generator(torch.zeros(1, generator.noise_size))
    return found


def test_wgan_end_to_end(tmp_path, folders):
    config = wgan.WganConfig.model_validate({
        "experiment": "wgan", "title": "t", "paper": "p", "repeats": 2, "device": "cpu", "data_folders": folders,
        "settings": {"samples": 64, "tsne_rows": 100, "head": {"epochs": 2, "widths": [8]}, "gan": GAN},
    })  # fmt: skip
    found = run_all(wgan.EXPERIMENT, config, tmp_path / "run")
    names = {row.quantity: row for row in found.rows}
    tables = itertools.product(("mp_gap", "supercon", "oqmd"), ("wgan", "magpie", "onehot"), ("mae", "rmse", "r2"))
    cells = [" ".join(cell) for cell in tables]
    assert set(cells) <= set(names)
    assert all(names[cell].repeats == 2 and np.isfinite(names[cell].sluice_mean) for cell in cells)
    assert names["mp_gap wgan mae"].paper == 0.467
    wins = [
        all(names[f"{name} wgan mae"].sluice_mean < names[f"{name} {other} mae"].sluice_mean for other in others)
        for name, others in itertools.product(("mp_gap", "supercon", "oqmd"), [("magpie", "onehot")])
    ]
    assert names["learned encoding best"].sluice_mean == sum(wins) and names["learned encoding best"].paper == 3
    assert 0 < names["charge-neutral, training"].sluice_mean < 1
    assert found.model.is_file()
    assert "Critic loss on held-out compositions" in found.figures
    layers = next(text for text in found.analysis if "5 × 4 to 11 × 8" in text)
    start, *rest = sizes_of_layers(load_model(found.files["generator.ckpt"]).network.generator)
    assert f"from {start[0]} × {start[1]} to {rest[0][0]} × {rest[0][1]} with" in layers
    assert "the printed {}, {} and {} rows".format(*(rows for rows, _ in rest[1:])) in layers


PAPER = {"novelty": 0.9253, "valid": 0.845}


def test_shares_of_all_draws(tmp_path):
    write_metrics(tmp_path, {"n_novel": 30, "n_ordered": 20, "n_drawn": 80, "ordered": 0.5})
    rows = {row.quantity: row.sluice_mean for row in matgan.of_all_draws([tmp_path], {"unit": "share"})}
    assert rows == {"novel of all draws": 0.375, "valid of all draws": 0.25}


@pytest.mark.parametrize("held_out", [0.1, 0.0])
def test_matgan_end_to_end(tmp_path, folders, held_out):
    gan = GAN | {"model": "matgan", "constraint": "penalty", "optimizer": "adam", "critic_steps": 1, "keep": "last"}
    gan |= {"validation_share": held_out, "width": 1.0 if held_out else 0.5}
    config = matgan.MatganConfig.model_validate({
        "experiment": "matgan", "title": "t", "paper": "p", "device": "cpu", "data_folders": folders,
        "goals": [{"quantity": "novelty", "at_least": 2}, {"quantity": "valid", "at_least": 0}],
        "settings": {"samples": 64, "judged_samples": 64, "critic_share": 0.01, "threshold": 0.45, "gan": gan},
    })  # fmt: skip
    found = run_all(matgan.EXPERIMENT, config, tmp_path / "run")
    names = {row.quantity: row.sluice_mean for row in found.rows}
    assert {"valid of all draws", "novel of all draws"} <= set(names)
    rejected = sum(value for name, value in names.items() if name.startswith("rejected: "))
    assert names["decodable"] + rejected == pytest.approx(1.0)
    favourites = {row.quantity.split(",")[0]: row for row in found.rows if row.quantity.endswith("critic's favourites")}
    assert set(favourites) == {"novelty", "valid", "valid and novel", "unique"}
    decoded = round(64 * names["decodable"])  # the same draws
    kept = min(1, decoded)
    assert decoded > 1 or not held_out, "so that the critic has a choice in one of the two"
    assert all(row.n_test == kept and row.paper == PAPER.get(name) for name, row in favourites.items())
    assert "first 64 draws as many as 1%" in found.analysis[3] and "was chosen" not in found.analysis[3]
    compositions, _ = load_compositions(tmp_path / "run" / "prepared" / FORMULAS_FILE)
    assert f"{len(compositions)} formulas stand in" in found.analysis[0]
    assert found.analysis[-1].startswith(
        f"Missed goals: novelty (≥ 2). Trained were {'all' if held_out else '50%'} of the published channels"
    )


@pytest.mark.parametrize("name", ["wgan", "matgan"])
def test_configurations_are_legal(repository, name):
    experiment, config = load_experiment_config(repository / "config" / "experiments" / f"{name}.yaml")
    assert experiment.parts(config)[0].variant == "gan"
    assert experiment.cpu_hours(config) > config.cpu_hours  # so that cuts are made
