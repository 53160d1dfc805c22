"""The models of campaigns of compositions: what they learn from, what they leave behind, interruption."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from formula_stores import ELEMENTS, energy_of, known_formulas, salts

from sluice.config import Chemistry
from sluice.config_composition_campaign import CompositionGeneratorSettings, CompositionScorerSettings
from sluice.errors import SluiceError
from sluice.models.modelfile import load_model
from sluice.models.scoring import score_input
from sluice.models.training import Plan
from sluice.report.formulas import read_not_encoded
from sluice.store import Store
from sluice.train import train_composition_scorer as scorer_step
from sluice.train.train_composition_generator import train_composition_generator
from sluice.train.train_composition_scorer import train_composition_scorer

SMALL = {"steps": 6, "batch_size": 8, "noise_size": 4, "embedding_size": 4, "critic_widths": (4,)}
TINY = {"size": 4, "hidden": 4, "trunk": (4,), "heads": 1, "messages": 1, "members": 2, "epochs": 3}
SPLITS = ["train"] * 12 + ["val"] * 3 + ["test"] * 3


def run(step, folder: Path, table: Path, settings, **further):
    folder.mkdir(exist_ok=True)
    name = "generator" if step is train_composition_generator else "scorer"
    outputs = {"model": folder / f"{name}.ckpt", "metrics": folder / f"{name}.csv"}
    if name == "scorer":
        outputs["predictions"] = folder / "held_out.h5"
        further = {"generator": [], "devices": "1"} | further
    step(
        compositions=table, settings=settings, checkpoints=folder / "checkpoints", seed=3, precision="32-true",
        threads=1, device="cpu", round=1, **outputs, **further,
    )  # fmt: skip
    return outputs


def chemistry(*elements):
    return {"chemistry": Chemistry(elements=elements or ELEMENTS)}


@pytest.mark.parametrize("model", ["wgan", "matgan"])
def test_generator_has_the_elements_of_the_chemistry(tmp_path, model):
    table = known_formulas(tmp_path / "known.h5", [*salts(), "Li9F"], split=[*SPLITS, "train"])
    settings = CompositionGeneratorSettings(model=model, width=0.05, **SMALL)
    outputs = run(train_composition_generator, tmp_path, table, settings, **chemistry())
    made = load_model(outputs["model"])
    assert made.kind == model and made.task == "generation"
    assert list(made.network.encoding.elements) == ["Li", "O", "F", "Na", "Mg", "Al", "Cl"]
    assert made.facts["training_rows"] == 12, "held-out formulas and those of nine equal atoms are no training rows"
    assert "val_decodable" in outputs["metrics"].read_text().splitlines()[0]


def test_generator_without_anything_to_learn(tmp_path):
    table = known_formulas(tmp_path / "known.h5", ["Li9F", "Li10F"])
    with pytest.raises(SluiceError, match="0 formulas can be drawn by a generator"):
        settings = CompositionGeneratorSettings(**SMALL)
        run(train_composition_generator, tmp_path, table, settings, **chemistry())


@pytest.mark.parametrize("model", ["roost", "elemnet", "head"])
def test_scorer_predicts_what_was_held_out(tmp_path, model):
    table = known_formulas(tmp_path / "known.h5", split=SPLITS)
    settings = CompositionScorerSettings(model=model, depth=3, widths=(8,), **TINY)
    outputs = run(train_composition_scorer, tmp_path, table, settings)
    with Store(outputs["predictions"], "composition_predictions") as store:
        assert store.text("formula") == salts()[12:] and store.text("split") == SPLITS[12:]
        np.testing.assert_allclose(
            store.column("formation_energy_ev_per_atom"), [energy_of(formula) for formula in salts()[12:]]
        )
        assert (store.column("standard_deviation_ev_per_atom") > 0).all()
    made = load_model(outputs["model"])
    assert made.kind == "composition" and len(made.network.members) == 2 and made.facts["training_rows"] == 12


@pytest.mark.parametrize("model", ["elemnet", "head"])
def test_scorer_on_the_vectors_that_the_wgan_learned(tmp_path, model):
    """The model file holds the vectors: formulas are scored without the WGAN's file."""
    table = known_formulas(tmp_path / "known.h5", [*salts(), "KF"], split=[*SPLITS, "train"])
    wgan = CompositionGeneratorSettings(model="wgan", **SMALL)
    generator = run(train_composition_generator, tmp_path, table, wgan, **chemistry())["model"]
    vectors = load_model(generator).network.element_encoding()
    settings = CompositionScorerSettings(model=model, encoding="embedding", depth=3, widths=(8,), **TINY)
    outputs = run(train_composition_scorer, tmp_path, table, settings, generator=[generator])
    generator.unlink()
    made = load_model(outputs["model"])
    np.testing.assert_array_equal(made.network.encoding.table, vectors.table)
    assert made.facts["training_rows"] == 12, "K has no vector: it is no element of the chemistry"
    assert made.facts["left_out_rows"] == {"train": 1, "val": 0, "test": 0}
    (tmp_path / "new.csv").write_text("formula\n" + "\n".join([*salts()[12:], "KF"]), encoding="utf-8")
    score_input(outputs["model"], tmp_path / "new.csv", tmp_path / "scores.csv", device="cpu")
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()))
    with Store(outputs["predictions"]) as store:
        assert store.text("formula") == [row["formula"] for row in rows[:-1]]
        found = store.column("predicted_formation_energy_ev_per_atom")
        np.testing.assert_allclose([float(row["score"]) for row in rows[:-1]], found, rtol=1e-4)
    assert rows[-1]["score"] == "" and "K is none of the elements that have a vector" in rows[-1]["reason"]


def test_scorer_without_the_vectors_that_it_is_to_take(tmp_path):
    table = known_formulas(tmp_path / "known.h5", split=SPLITS)
    settings = CompositionScorerSettings(model="head", encoding="embedding", **TINY)
    with pytest.raises(SluiceError, match="needs the model file of one WGAN, 0 are given"):
        run(train_composition_scorer, tmp_path, table, settings)
    matgan = CompositionGeneratorSettings(model="matgan", width=0.05, **SMALL)
    generator = run(train_composition_generator, tmp_path, table, matgan, **chemistry())["model"]
    with pytest.raises(SluiceError, match=r"generator.ckpt: a matgan model has no vectors of the elements"):
        run(train_composition_scorer, tmp_path, table, settings, generator=[generator])


def test_elements_that_were_only_held_out_have_no_prediction(tmp_path):
    table = known_formulas(tmp_path / "known.h5", [*salts()[:12], "KF"], split=["train"] * 12 + ["test"])
    outputs = run(train_composition_scorer, tmp_path, table, CompositionScorerSettings(**TINY))
    with Store(outputs["predictions"]) as store:
        assert len(store) == 0 and store.failures().detail == ["the model was trained on no composition with K"]


def test_formulas_outside_the_encoding_are_told(tmp_path, capsys):
    formulas = [*salts(), "Li9F", "HeO", "NaF", "Li9O", "MgF2"]
    split = [*SPLITS, "train", "train", "train", "val", "test"]
    table = known_formulas(tmp_path / "known.h5", formulas, split=split)
    settings = CompositionScorerSettings(model="head", encoding="onehot", widths=(8,), **TINY)
    outputs = run(train_composition_scorer, tmp_path, table, settings)
    said = capsys.readouterr().out
    assert "3 of 23 formulas cannot be encoded and are left out (train 2, val 1, test 0), e.g. 9 atoms of Li" in said
    facts = load_model(outputs["model"]).facts
    assert facts["left_out_rows"] == {"train": 2, "val": 1, "test": 0} and facts["training_rows"] == 13
    with Store(outputs["predictions"]) as store:
        assert store.text("formula") == [*salts()[12:], "MgF2"]
        assert dict(store.reasons()) == {"cannot be encoded": 3}
    assert read_not_encoded(outputs["predictions"]) == {
        "9 atoms of Li, at most 8 can be encoded": 2,
        "He is none of the 85 elements of the encoding": 1,
    }


@pytest.mark.parametrize(
    ("formulas", "cause"),
    [
        (["NaF", *(f"HeO{k}" for k in range(1, 21)), "KF"], "1 of 21 training.*He is none of the 85 .*20 formulas"),
        # Two are enough for a training, but not out of so many.
        (["NaF", "MgO", *(f"Li{k}O" for k in range(9, 50, 2)), "KF"], "2 of 23 training.*9 atoms of Li"),
    ],
)
def test_scorer_whose_encoding_leaves_next_to_nothing(tmp_path, formulas, cause):
    table = known_formulas(tmp_path / "known.h5", formulas, split=["train"] * (len(formulas) - 1) + ["test"])
    settings = CompositionScorerSettings(model="head", encoding="onehot", widths=(8,), **TINY)
    with pytest.raises(SluiceError, match=rf"{cause}.*set compositions.scorer.model: roost"):
        run(train_composition_scorer, tmp_path, table, settings)
    assert not (tmp_path / "scorer.ckpt").exists()


def test_scorer_without_training_formulas(tmp_path):
    table = known_formulas(tmp_path / "known.h5", split="test")
    with pytest.raises(SluiceError, match="0 of 0 training formulas are left to learn from; give more formulas"):
        run(train_composition_scorer, tmp_path, table, CompositionScorerSettings(**TINY))


def test_scorer_learns_on_two_devices_what_it_learns_on_one(tmp_path, capsys):
    table = known_formulas(tmp_path / "known.h5", split=SPLITS)
    # Batches of 5, 5 and 2 rows: shares of different sizes.
    settings = CompositionScorerSettings(**TINY | {"members": 1, "batch_size": 5})
    one, two = (
        run(train_composition_scorer, tmp_path / n, table, settings, devices=n)["metrics"].read_text().splitlines()
        for n in ("1", "2")
    )
    assert "train roost: on 2 devices" in capsys.readouterr().out and len(one) == 4
    for pair in zip(csv.DictReader(two), csv.DictReader(one), strict=True):
        mine, theirs = ({name: float(value) for name, value in row.items()} for row in pair)
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        # Biases in front of a normalization have no gradient but rounding, which Adam blows up; evaluation sees them.
        assert mine == pytest.approx(theirs, rel=0.02)


def test_interrupted_scorer_ends_with_the_same_bits(tmp_path, monkeypatch):
    table = known_formulas(tmp_path / "known.h5", split=SPLITS)
    settings = CompositionScorerSettings(checkpoint_minutes=1e-9, batch_size=4, **TINY)
    whole = run(train_composition_scorer, tmp_path / "whole", table, settings)
    train, plans = scorer_step.train_members, []

    def dies(*arguments, **options):
        from sluice.models import composition_training

        real = composition_training.train

        def second_member_fails(learner, plan: Plan):
            plans.append(plan)
            if len(plans) == 2:
                step, taken = learner.step, []

                def fail(index, progress):
                    taken.append(0)
                    if len(taken) == 5:
                        raise RuntimeError("killed")
                    return step(index, progress)

                learner.step = fail
            return real(learner, plan)

        with monkeypatch.context() as patch:
            patch.setattr(composition_training, "train", second_member_fails)
            return train(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(scorer_step, "train_members", dies)
        with pytest.raises(RuntimeError, match="killed"):
            run(train_composition_scorer, tmp_path / "part", table, settings)
    part = run(train_composition_scorer, tmp_path / "part", table, settings)
    assert part["metrics"].read_text() == whole["metrics"].read_text()
    with Store(part["predictions"]) as first, Store(whole["predictions"]) as second:
        assert first.content_sha256 == second.content_sha256
