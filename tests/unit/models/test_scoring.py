import csv
import io
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from crystals_for_models import decorated, write_dataset
from pymatgen.io.cif import CifWriter

from sluice.crystals import Crystals
from sluice.errors import BadDataError
from sluice.models import scoring
from sluice.models.cgcnn import CGCNN
from sluice.models.cubicgan import CubicGAN
from sluice.models.modelfile import ModelError, save_model
from sluice.models.pu_bags import BaggedCGCNN
from sluice.models.scoring import NO_NUMBER, Model, load_model, score_crystals, score_input

SIZES = {"hidden_size": 8, "head_size": 8, "convolutions": 1, "gaussians": 11, "neighbours": 12, "cutoff": 6.0}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "screener.ckpt"
    torch.manual_seed(0)
    save_model(
        path,
        kind="cgcnn",
        task="classification",
        hyperparameters=SIZES,
        state=CGCNN(**SIZES).state_dict(),
        facts={"threshold_ev_per_atom": -1.0},
    )
    return path


@pytest.fixture(scope="module")
def crystals():
    return decorated()[0][::60]


@pytest.fixture(scope="module")
def scores(model_file, crystals):
    return score_crystals(load_model(model_file), crystals, "cpu")


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_scores_are_probabilities_that_do_not_depend_on_chunks(model_file, crystals, scores, monkeypatch):
    assert ((scores > 0) & (scores < 1)).all()
    monkeypatch.setattr(scoring, "CHUNK", 3)
    monkeypatch.setattr(scoring, "ATOMS_PER_BATCH", 7)
    np.testing.assert_allclose(score_crystals(load_model(model_file), crystals, "cpu"), scores, atol=1e-6)


def test_what_cannot_be_scored_is_nan(model_file, crystals, scores):
    lattice = crystals.lattice.copy()
    lattice[1] = np.nan
    lattice[2] *= 0.01
    broken = Crystals(lattice, crystals.atom_offsets, crystals.numbers, crystals.frac_coords)
    found = score_crystals(load_model(model_file), broken, "cpu")
    assert np.isnan(found[1:3]).all()
    np.testing.assert_allclose(np.delete(found, [1, 2]), np.delete(scores, [1, 2]), atol=1e-6)
    assert score_crystals(load_model(model_file), Crystals.empty(), "cpu").shape == (0,)


def test_folder_of_cifs_with_a_broken_one(model_file, crystals, scores, tmp_path, capsys):
    for i, structure in enumerate(crystals.structures()):
        CifWriter(structure).write_file(tmp_path / f"x{i:02d}.cif")
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a what?\n")
    score_input(model_file, tmp_path, tmp_path / "out" / "scores.csv", "cpu")
    rows = {row["id"]: row for row in read(tmp_path / "out" / "scores.csv")}
    assert len(rows) == len(crystals) + 1
    for i, score in enumerate(scores):
        assert float(rows[f"x{i:02d}"]["score"]) == pytest.approx(score, abs=1e-3)
        assert rows[f"x{i:02d}"]["reason"] == ""
    assert rows["broken"]["score"] == ""
    assert rows["broken"]["reason"] == "cannot be parsed"
    assert "broken" in capsys.readouterr().err


def test_an_element_without_features_has_no_score(model_file, crystals, scores, tmp_path):
    frames = [crystals.ase_atoms(i) for i in range(len(crystals))]
    frames[1].numbers[0] = 104
    ase.io.write(tmp_path / "heavy.extxyz", frames)
    score_input(model_file, tmp_path / "heavy.extxyz", tmp_path / "a.csv", "cpu")
    rows = read(tmp_path / "a.csv")
    assert (rows[1]["score"], rows[1]["reason"]) == ("", "element beyond Lr")
    np.testing.assert_allclose([float(row["score"]) for row in rows if row["score"]], np.delete(scores, 1), atol=1e-4)


def test_extxyz_and_store(model_file, crystals, scores, tmp_path):
    frames = [crystals.ase_atoms(i) for i in range(len(crystals))]
    ase.io.write(tmp_path / "many.extxyz", frames)
    score_input(model_file, tmp_path / "many.extxyz", tmp_path / "a.csv", "cpu")
    np.testing.assert_allclose([float(row["score"]) for row in read(tmp_path / "a.csv")], scores, atol=1e-4)
    write_dataset(tmp_path / "data.h5")
    score_input(model_file, tmp_path / "data.h5", tmp_path / "b.csv", "cpu")
    found = read(tmp_path / "b.csv")
    assert found[60]["id"] == "db-00060"
    np.testing.assert_allclose([float(row["score"]) for row in found[::60]], scores, atol=1e-5)


def test_formulas_are_refused_by_a_structure_model(model_file, tmp_path):
    (tmp_path / "formulas.csv").write_text("formula\nNaCl\n")
    with pytest.raises(BadDataError, match=r"trained on structures.*composition model"):
        score_input(model_file, tmp_path / "formulas.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_folder_in_which_nothing_gets_a_score_is_an_error(model_file, tmp_path):
    """The table with the reasons is there all the same."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.cif").write_text("data_x\n_cell_length_a what?\n")
    with pytest.raises(BadDataError, match=r"2 of 2 have no score:\n  a: cannot be parsed(.|\n)*holds no score"):
        score_input(model_file, tmp_path, tmp_path / "out.csv", "cpu")
    assert [row["reason"] for row in read(tmp_path / "out.csv")] == ["cannot be parsed"] * 2


def test_a_model_without_numbers_is_not_blamed_on_the_cell(model_file, crystals, tmp_path):
    content = torch.load(model_file, weights_only=True)
    content["state"] = {k: torch.full_like(v, torch.nan) if "head" in k else v for k, v in content["state"].items()}
    torch.save(content, tmp_path / "nan.ckpt")
    ase.io.write(tmp_path / "many.extxyz", [crystals.ase_atoms(i) for i in range(3)])
    with pytest.raises(BadDataError, match="3 of 3 have no score"):
        score_input(tmp_path / "nan.ckpt", tmp_path / "many.extxyz", tmp_path / "out.csv", "cpu")
    assert {row["reason"] for row in read(tmp_path / "out.csv")} == {NO_NUMBER}


def test_bags_look_at_fewer_atoms_at_a_time(crystals, monkeypatch):
    """All members hold a batch's activations at once."""
    monkeypatch.setattr(scoring, "ATOMS_PER_BATCH", 40)
    sizes = {"hidden_size": 4, "head_size": 4, "convolutions": 1, "gaussians": 5, "neighbours": 6, "cutoff": 5.0}
    seen, found = {}, {}
    for bags in (1, 4):
        torch.manual_seed(0)
        network = BaggedCGCNN(bags=bags, **sizes)
        network.members.register_forward_pre_hook(
            lambda _, given, bags=bags: seen.setdefault(bags, []).append(int(given[0].n_atoms.sum()))
        )
        model = Model("pu_bags", network, "classification", {}, Path("m.ckpt"), "")
        found[bags] = score_crystals(model, crystals, "cpu")
        assert np.isfinite(found[bags]).all()
    largest = int(crystals.n_atoms.max())
    assert max(seen[1]) <= 40 + largest and max(seen[4]) <= 10 + largest
    assert sum(seen[1]) == sum(seen[4]) == int(crystals.n_atoms.sum())


def test_compositions_that_a_model_has_learnt_are_counted(model_file, crystals, tmp_path, capsys):
    formulas = crystals.reduced_formulas()
    content = torch.load(model_file, weights_only=True)
    content["facts"]["training_formulas"] = [formulas[0], formulas[1]]
    torch.save(content, tmp_path / "adapted.ckpt")
    ase.io.write(tmp_path / "many.extxyz", [crystals.ase_atoms(i) for i in range(len(crystals))])
    for model, said in ((model_file, ""), (tmp_path / "adapted.ckpt", "are of compositions whose labels")):
        score_input(model, tmp_path / "many.extxyz", tmp_path / "out.csv", "cpu")
        found = capsys.readouterr().err
        assert said in found and (said or not found)
    n = sum(formula in formulas[:2] for formula in formulas)
    assert found.startswith(f"{n} of {len(formulas)} are of compositions")


def test_an_empty_folder_is_told(model_file, tmp_path):
    with pytest.raises(BadDataError, match="holds no crystals"):
        score_input(model_file, tmp_path, tmp_path / "out.csv")


def test_bad_model_files_are_refused(model_file, tmp_path):
    folder = tmp_path / "cifs"
    folder.mkdir()
    with pytest.raises(ModelError, match="no such model"):
        score_input(tmp_path / "none.ckpt", folder, tmp_path / "out.csv")
    for text in ("hello", "training\n", "alloy,x\n", "README\n", "Just words\n", ""):
        (tmp_path / "text.ckpt").write_text(text)
        with pytest.raises(ModelError, match=r"text.ckpt.*not a readable"):
            load_model(tmp_path / "text.ckpt")
    torch.save({"weights": torch.ones(3)}, tmp_path / "foreign.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(model_file.read_bytes()[:-2000])
    torch.save({"model": np.random.default_rng}, tmp_path / "code.ckpt")
    for name, message in (
        ("text", "not a readable"),
        ("cut", "not a readable"),
        ("code", "not a readable"),
        ("foreign", "not a model that Sluice wrote"),
    ):
        with pytest.raises(ModelError, match=f"{name}.ckpt.*{message}"):
            score_input(tmp_path / f"{name}.ckpt", folder, tmp_path / "out.csv")
    content = torch.load(model_file, weights_only=True)
    content["hyperparameters"]["hidden_size"] = 9
    torch.save(content, tmp_path / "misfit.ckpt")
    with pytest.raises(ModelError, match="do not fit"):
        load_model(tmp_path / "misfit.ckpt")


def test_a_generator_gives_no_scores(tmp_path, crystals):
    hyperparameters = {"sites": 3, "noise_size": 4, "sizes": {}, "length_range": [3.0, 9.0]}
    save_model(
        tmp_path / "generator.ckpt",
        kind="cubicgan",
        task="generation",
        hyperparameters=hyperparameters,
        state=CubicGAN(**hyperparameters).state_dict(),
        facts={},
    )
    with pytest.raises(ModelError, match="gives no scores"):
        score_crystals(load_model(tmp_path / "generator.ckpt"), crystals, "cpu")


def test_the_likeliest_keep_their_order(crystals, tmp_path):
    """Logits of some twenty: in single precision every one of these probabilities is 1."""
    network = CGCNN(**SIZES)
    with torch.no_grad():
        network.head.bias.add_(20.0)
    path, frames = tmp_path / "sure.ckpt", [crystals.ase_atoms(i) for i in range(len(crystals))]
    save_model(path, kind="cgcnn", task="classification", hyperparameters=SIZES, state=network.state_dict(), facts={})
    ase.io.write(tmp_path / "many.extxyz", frames)
    score_input(path, tmp_path / "many.extxyz", tmp_path / "out.csv", "cpu")
    scores = [float(row["score"]) for row in read(tmp_path / "out.csv")]
    assert max(scores) <= 1 and len(set(scores)) > len(scores) / 2
