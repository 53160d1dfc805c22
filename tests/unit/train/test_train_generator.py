import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from crystals_for_models import decorated, shortlist_of, write_dataset, write_decision, write_validated

from sluice.config import GeneratorSettings
from sluice.errors import SluiceError
from sluice.models.modelfile import load_model
from sluice.store import Store
from sluice.train.collect_training_set import collect_training_set
from sluice.train.train_generator import train_generator, wanted

SETTINGS = GeneratorSettings(epochs=3, batch_size=64, noise_size=16, critic_steps=2, random_elements=0.3, dropout=0.1)


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
        "decision": [],
        "earlier": [],
        "model": folder / "generator.ckpt",
        "metrics": folder / "generator_metrics.csv",
    }
    train_generator(**(values | changes))
    return folder


@pytest.fixture(scope="module")
def trained(training_set, tmp_path_factory):
    return run(tmp_path_factory.mktemp("trained"), training_set)


def test_model_file_says_what_it_learned(trained, training_set):
    model = load_model(trained / "generator.ckpt")
    with Store(training_set) as data:
        train = data.column("split") == b"train"
        groups = data.column("space_group")[train]
        assert model.facts["training_sha256"] == data.content_sha256
    assert model.facts["space_group_counts"] == [int((groups == number).sum()) for number in (216, 221, 225)]
    assert model.facts["elements"] == [3, 8, 9, 11, 12, 17, 19]
    low, high = model.network.length_range
    assert 3 < low < high < 8


def test_metrics_have_a_row_an_epoch(trained):
    rows = list(csv.DictReader((trained / "generator_metrics.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert {"critic_loss", "critic_gap", "generator_loss", "val_recovered", "val_length_mae_angstrom"} <= set(rows[0])


def test_killed_and_resumed_is_equal_to_the_bit(trained, training_set, tmp_path):
    """SIGKILL in the middle of a real process; weights and metrics as without it."""
    folder = tmp_path / "killed"
    settings = SETTINGS.model_copy(update={"checkpoint_minutes": 1e-6})
    command = [sys.executable, "-m", "sluice.train.train_generator", "--training-set", str(training_set)]
    command += ["--settings", settings.model_dump_json(), "--checkpoints", str(folder / "checkpoints")]
    command += ["--seed", "11", "--precision", "32-true", "--threads", "1", "--device", "cpu", "--devices", "1"]
    command += ["--round", "1"]
    command += ["--decision", "--earlier", "--model", str(folder / "generator.ckpt")]
    command += ["--metrics", str(folder / "generator_metrics.csv"), "--attempts", str(tmp_path / "attempts.jsonl")]
    process = subprocess.Popen(command, cwd=tmp_path)
    deadline = time.monotonic() + 240
    while not any(p.name >= "step_000000009.ckpt" for p in (folder / "checkpoints").glob("step_*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "generator.ckpt").exists()
    run(folder, training_set, settings)
    for name in ("generator.ckpt", "generator_metrics.csv"):
        assert (folder / name).read_bytes() == (trained / name).read_bytes(), name


def test_energy_limit_and_confirmation_decide_what_is_learned(tmp_path):
    dataset = write_dataset(tmp_path / "dataset.h5", elements=(8, 9, 11))
    new = decorated((3, 17, 19))[0][:3]
    validated = write_validated(tmp_path / "v.h5", new, [-9.0, -9.0, -9.0], confirmed=[True, False, True])
    collect_training_set(
        dataset=dataset,
        validated=[validated],
        shortlists=[shortlist_of(validated)],
        round=2,
        training_set=tmp_path / "set.h5",
    )
    with Store(tmp_path / "set.h5") as store:
        rows = store.rows()
    energy = rows.columns["formation_energy_ev_per_atom"]
    assert wanted(rows, None).sum() == len(rows) - 1
    np.testing.assert_array_equal(np.flatnonzero(wanted(rows, -8.0)), np.flatnonzero(energy == -9.0)[[0, 2]])


def test_confirmed_crystals_are_repeated(tmp_path):
    dataset = write_dataset(tmp_path / "dataset.h5", elements=(8, 9, 11))
    new = decorated((3, 17, 19))[0][:2]
    validated = write_validated(tmp_path / "v.h5", new, [-9.0, -9.0])
    collect_training_set(
        dataset=dataset,
        validated=[validated],
        shortlists=[shortlist_of(validated)],
        round=2,
        training_set=tmp_path / "set.h5",
    )
    run(tmp_path / "out", tmp_path / "set.h5", SETTINGS.model_copy(update={"dft_repeats": 7, "epochs": 1}), round=2)
    facts = load_model(tmp_path / "out" / "generator.ckpt").facts
    assert facts["dft_rows"] == 2
    assert sum(facts["space_group_counts"]) == facts["training_rows"] + 2 * 6


def test_a_stopped_campaign_hands_its_model_on(trained, training_set, tmp_path):
    earlier = [trained / name for name in ("generator.ckpt", "generator_metrics.csv")]
    go, stop = write_decision(tmp_path / "go.h5", False), write_decision(tmp_path / "stop.h5", True)
    run(tmp_path / "next", training_set, round=2, decision=[stop], earlier=earlier)
    assert (tmp_path / "next" / "generator.ckpt").read_bytes() == earlier[0].read_bytes()
    run(tmp_path / "other", training_set, round=2, decision=[go], earlier=earlier)
    assert (tmp_path / "other" / "generator.ckpt").read_bytes() != earlier[0].read_bytes()


def test_nothing_to_learn_from_is_said(training_set, tmp_path):
    with pytest.raises(SluiceError, match="max_formation_energy"):
        run(tmp_path, training_set, SETTINGS.model_copy(update={"max_formation_energy": -99.0}))
