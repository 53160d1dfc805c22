import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from crystals_for_models import decorated, shortlist_of, write_dataset, write_decision, write_validated

from sluice.config import GeneratorSettings, ScreenerSettings, TsdnnSettings
from sluice.crystals import Crystals
from sluice.errors import SluiceError
from sluice.models.scoring import load_model, score_crystals
from sluice.store import Store
from sluice.train.collect_training_set import collect_training_set
from sluice.train.train_generator import train_generator
from sluice.train.train_screener import class_threshold, make_learner, train_screener
from sluice.train.unlabelled_crystals import draw_unlabelled

SETTINGS = ScreenerSettings(
    epochs=12, batch_size=16, hidden_size=12, head_size=8, convolutions=1, gaussians=15, cutoff=6.0, learning_rate=5e-3
)


@pytest.fixture(scope="module")
def training_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    dataset = write_dataset(folder / "dataset.h5")
    collect_training_set(dataset=dataset, validated=[], shortlists=[], round=1, training_set=folder / "set.h5")
    return folder / "set.h5"


def run(folder, training_set, settings=SETTINGS, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "training_set": training_set,
        "settings": settings,
        "checkpoints": folder / "checkpoints",
        "seed": 11,
        "precision": "32-true",
        "threads": 1,
        "device": "cpu",
        "devices": "1",
        "round": 1,
        "generator": [],
        "decision": [],
        "earlier": [],
        "model": folder / "screener.ckpt",
        "metrics": folder / "screener_metrics.csv",
        "predictions": folder / "screener_test.h5",
    }
    train_screener(**(values | changes))
    return folder


@pytest.fixture(scope="module")
def trained(training_set, tmp_path_factory):
    return run(tmp_path_factory.mktemp("trained"), training_set)


def test_held_out_rows_are_told_apart(trained, training_set):
    with Store(trained / "screener_test.h5", "predictions") as found, Store(training_set) as data:
        assert set(found.text("split")) == {"val", "test"}
        assert len(found) == (data.column("split") != b"train").sum()
        predicted, target = found.column("predicted"), found.column("target")
    below, above = predicted[target == 1], predicted[target == 0]
    # The area under the ROC curve by its definition.
    auc = (below[:, None] > above[None, :]).mean()
    assert auc > 0.9


def test_threshold_is_the_training_median(trained, training_set):
    with Store(training_set) as data:
        energy, split = data.column("formation_energy_ev_per_atom"), data.column("split")
    facts = load_model(trained / "screener.ckpt").facts
    assert facts["threshold_ev_per_atom"] == np.median(energy[split == b"train"])
    assert facts["elements"] == [3, 8, 9, 11, 12, 17, 19]
    assert class_threshold(SETTINGS.model_copy(update={"threshold": -0.7}), energy) == -0.7


def test_model_file_gives_the_same_scores(trained, training_set):
    model = load_model(trained / "screener.ckpt")
    with Store(trained / "screener_test.h5") as found:
        np.testing.assert_allclose(score_crystals(model, found.crystals(), "cpu"), found.column("predicted"), atol=1e-6)


def test_metrics_have_a_row_an_epoch(trained):
    rows = list(csv.DictReader((trained / "screener_metrics.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, SETTINGS.epochs + 1))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert {"val_loss", "val_roc_auc"} <= set(rows[0])


def test_killed_and_resumed_is_equal_to_the_bit(trained, training_set, tmp_path):
    """SIGKILL in the middle of a real process; weights, metrics and predictions as without it."""
    folder = tmp_path / "killed"
    settings = SETTINGS.model_copy(update={"checkpoint_minutes": 1e-6})
    command = [sys.executable, "-m", "sluice.train.train_screener", "--training-set", str(training_set)]
    command += ["--settings", settings.model_dump_json(), "--checkpoints", str(folder / "checkpoints")]
    command += ["--seed", "11", "--precision", "32-true", "--threads", "1", "--device", "cpu", "--devices", "1"]
    command += ["--round", "1"]
    command += ["--generator", "--decision", "--earlier", "--model", str(folder / "screener.ckpt")]
    command += ["--metrics", str(folder / "screener_metrics.csv")]
    command += ["--predictions", str(folder / "screener_test.h5"), "--attempts", str(tmp_path / "attempts.jsonl")]
    process = subprocess.Popen(command, cwd=tmp_path)
    middle = "step_000000100.ckpt"  # of about 12 x 30
    deadline = time.monotonic() + 240
    while not any(p.name >= middle for p in (folder / "checkpoints").glob("step_*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "screener.ckpt").exists()
    run(folder, training_set, settings)
    for name in ("screener.ckpt", "screener_metrics.csv"):
        assert (folder / name).read_bytes() == (trained / name).read_bytes(), name
    with Store(folder / "screener_test.h5") as one, Store(trained / "screener_test.h5") as other:
        assert one.content_sha256 == other.content_sha256


def test_one_dft_label_changes_the_screener(training_set, tmp_path):
    dataset = write_dataset(tmp_path / "dataset.h5")
    new = decorated((9, 11, 37))[0][:3]
    scores = []
    for name, energy in (("a", -3.0), ("b", 3.0)):
        validated = write_validated(tmp_path / f"{name}.h5", new, [-3.0, energy, 3.0])
        collect_training_set(
            dataset=dataset,
            validated=[validated],
            shortlists=[shortlist_of(validated)],
            round=2,
            training_set=tmp_path / f"{name}_set.h5",
        )
        run(tmp_path / name, tmp_path / f"{name}_set.h5", round=2)
        model = load_model(tmp_path / name / "screener.ckpt")
        assert model.facts["dft_rows"] == 3
        scores.append(score_crystals(model, new, "cpu"))
    assert scores[0][1] > scores[1][1]


def test_a_stopped_campaign_hands_its_models_on(trained, training_set, tmp_path):
    earlier = [trained / name for name in ("screener.ckpt", "screener_metrics.csv", "screener_test.h5")]
    stop = write_decision(tmp_path / "decision.h5", True)
    run(tmp_path / "next", training_set, round=2, decision=[stop], earlier=earlier)
    for path in earlier:
        assert (tmp_path / "next" / path.name).read_bytes() == path.read_bytes()
    assert not (tmp_path / "next" / "checkpoints").exists()


def test_nothing_to_learn_from_is_said(tmp_path):
    dataset = write_dataset(tmp_path / "dataset.h5", only="val")
    collect_training_set(dataset=dataset, validated=[], shortlists=[], round=1, training_set=tmp_path / "set.h5")
    with pytest.raises(SluiceError, match="no training rows"):
        run(tmp_path, tmp_path / "set.h5")


def test_a_threshold_beyond_all_energies_is_said(training_set, tmp_path):
    for threshold in (-99.0, 99.0):
        settings = ScreenerSettings.model_validate(SETTINGS.model_dump() | {"threshold": threshold})
        with pytest.raises(SluiceError, match=r"puts all \d+ training crystals into one class; .* lie between -"):
            run(tmp_path, training_set, settings)


@pytest.fixture(scope="module")
def generator(training_set, tmp_path_factory):
    """A generator that has learnt long enough to tell sites apart."""
    folder = tmp_path_factory.mktemp("generator")
    train_generator(
        training_set=training_set,
        settings=GeneratorSettings(epochs=12, batch_size=16, critic_steps=1),
        checkpoints=folder / "checkpoints",
        seed=11,
        precision="32-true",
        threads=1,
        device="cpu",
        devices="1",
        round=1,
        decision=[],
        earlier=[],
        model=folder / "generator.ckpt",
        metrics=folder / "generator_metrics.csv",
    )
    return folder / "generator.ckpt"


TSDNN = ScreenerSettings.model_validate(
    SETTINGS.model_dump() | {"model": "tsdnn", "tsdnn": {"generated": 150, "dropout": 0.1}}
)


def test_tsdnn_learns_from_crystals_of_the_generator(training_set, generator, tmp_path):
    run(tmp_path, training_set, TSDNN, generator=[generator])
    model = load_model(tmp_path / "screener.ckpt")
    assert model.kind == "tsdnn" and model.network.answer == "both"
    with Store(training_set) as data:
        n_train = int((data.column("split") == b"train").sum())
    assert model.facts["generated_rows"] == 150 and model.facts["unlabelled_rows"] == n_train + 150
    with Store(tmp_path / "screener_test.h5") as found:
        np.testing.assert_allclose(score_crystals(model, found.crystals(), "cpu"), found.column("predicted"), atol=1e-6)
        below = found.column("target") == 1
        # The area under the ROC curve by its definition.
        auc = (found.column("predicted")[below][:, None] > found.column("predicted")[~below][None, :]).mean()
    assert auc > 0.8
    again = run(tmp_path / "again", training_set, TSDNN, generator=[generator])
    assert (again / "screener.ckpt").read_bytes() == (tmp_path / "screener.ckpt").read_bytes()
    without = TSDNN.model_copy(update={"tsdnn": TSDNN.tsdnn.model_copy(update={"generated": 0})})
    run(tmp_path / "without", training_set, without)
    assert load_model(tmp_path / "without" / "screener.ckpt").facts["unlabelled_rows"] == n_train
    assert (tmp_path / "without" / "screener.ckpt").read_bytes() != (tmp_path / "screener.ckpt").read_bytes()


def test_drawn_crystals_are_of_no_held_out_formula(training_set, generator):
    model = load_model(generator)
    some = draw_unlabelled(model, 300, seed=4, without=frozenset(), device="cpu")
    formulas = set(some.reduced_formulas())
    held_out = set(sorted(formulas)[::2])
    others = draw_unlabelled(model, 300, seed=4, without=held_out, device="cpu")
    assert len(some) == len(others) == 300 and not held_out & set(others.reduced_formulas())
    assert set(np.unique(some.numbers)) <= set(model.facts["elements"])


def test_tsdnn_repeats_dft_labels_instead_of_weighing_them(training_set):
    with Store(training_set, "dataset") as store:
        data = store.rows()
    data.columns["label_round"] = np.where(np.arange(len(data)) % 7 == 0, 1, 0)
    settings = TSDNN.model_copy(update={"dft_weight": 3.4})
    learner = make_learner(data, settings, threshold=-0.5, drawn=Crystals.empty())
    rows, counts = np.unique(learner.labelled, return_counts=True)
    assert np.array_equal(counts, np.where(data.columns["label_round"][rows] > 0, 3, 1))


def test_tsdnn_without_what_it_needs_is_refused(training_set, tmp_path):
    with pytest.raises(SluiceError, match="no generator's model is given"):
        run(tmp_path, training_set, TSDNN)
    with pytest.raises(ValueError, match="unlabelled crystals"):
        TsdnnSettings(generated=0, known=False)


def test_another_network_at_another_size(training_set, tmp_path):
    settings = SETTINGS.model_copy(update={"model": "gatgnn", "scale": "touching", "heads": 2, "epochs": 2})
    run(tmp_path, training_set, settings)
    model = load_model(tmp_path / "screener.ckpt")
    assert model.kind == "gatgnn" and model.network.scale == "touching"
    crystals = decorated()[0][::40]
    grown = Crystals(crystals.lattice * 1.1, crystals.atom_offsets, crystals.numbers, crystals.frac_coords)
    one, two = (score_crystals(model, c, "cpu") for c in (crystals, grown))
    np.testing.assert_allclose(one, two, atol=1e-4)
