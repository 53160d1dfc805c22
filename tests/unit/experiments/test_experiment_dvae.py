"""The disentangled VAE's experiment on a small made-up set of alloys, from data to table."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from hea_data import COMPONENTS, SIZES, write, write_hea_data

from sluice.chemistry.alloy_features import EXTENDED
from sluice.errors import BadDataError
from sluice.experiments.dvae import DvaeConfig, DvaeSettings, Recipe
from sluice.experiments.dvae_data import load_alloys, prepare_alloys
from sluice.experiments.dvae_design import Sieve
from sluice.experiments.dvae_runs import reconstruction_error
from sluice.experiments.experiment import Job, load_experiment
from sluice.experiments.folders import read_metrics
from sluice.models.dvae import DisentangledVAE
from sluice.models.scoring import score_input

SMALL = {"epochs": 8, "learning_rate": 3e-3, "init_std": None, "hidden": (12,), "batch_size": 20}
CONFIG = DvaeConfig(
    experiment="dvae",
    title="small",
    paper="nobody",
    device="cpu",
    repeats=2,
    goals=({"quantity": "test accuracy", "at_least": 1.1},),
    settings=DvaeSettings(
        paper=Recipe(**SMALL),
        model=Recipe(**SMALL, features="extended", bins=3, schedule="cosine", keep="last"),
        label_shares=(0.2, 1.0),
        efficiency_seeds=2,
        efficiency_epochs=3,
        proposals=5,
        least_probability=0.01,
        min_elements=3,
        max_share=0.6,
    ),
)


@pytest.fixture
def prepared(tmp_path):
    """Folder of the prepared data."""
    write_hea_data(tmp_path / "hea_dvae")
    folder = tmp_path / "prepared"
    folder.mkdir()
    prepare_alloys(tmp_path / "hea_dvae", folder)
    return folder


def test_alloys_are_read_as_published(prepared):
    alloys = load_alloys(prepared)
    assert alloys.components == tuple(COMPONENTS)
    assert {name: len(alloys.rows(name)) for name in SIZES} == SIZES
    assert np.allclose(alloys.fractions.sum(1), 1.0) and alloys.of("published").shape[1] == 8


def test_alloys_of_two_splits_are_found_in_any_amounts(prepared):
    alloys = load_alloys(prepared)
    before = alloys.repeated("test", "labelled")
    test, labelled = alloys.rows("test")[3], alloys.rows("labelled")[7]
    fractions = alloys.fractions.copy()
    fractions[test] = fractions[labelled] * (1 + 1e-12)
    found = dataclasses.replace(alloys, fractions=fractions).repeated("test", "labelled")
    assert found == [str(alloys.formulas[k]) for k in alloys.rows("test") if k == test or alloys.formulas[k] in before]


def test_the_published_split_repeats_two_compositions(sluice_data, tmp_path):
    if not (sluice_data / "hea_dvae").is_dir():
        pytest.skip("SLUICE_DATA has no hea_dvae")
    prepare_alloys(sluice_data / "hea_dvae", tmp_path)
    alloys = load_alloys(tmp_path)
    assert len(alloys.repeated("test", "labelled")) == 2
    assert not alloys.repeated("validation", "labelled") and not alloys.repeated("test", "validation")


@pytest.mark.parametrize(
    ("column", "message"), [("delta", "differ from the published ones"), ("split", "lacks"), ("Al", "differ from")]
)
def test_other_tables_are_refused(tmp_path, column, message):
    table = write_hea_data(tmp_path / "hea_dvae")
    table = table.assign(**{column: "elsewhere" if column == "split" else table[column] + 0.3})
    write(tmp_path / "hea_dvae" / "splits.csv.gz", table)
    with pytest.raises(BadDataError, match=message):
        prepare_alloys(tmp_path / "hea_dvae", tmp_path)


def test_reconstruction_error_is_the_authors(prepared):
    """A decoder that answers equal parts whatever it is asked: 20 % for each of five elements."""
    alloys = load_alloys(prepared)
    network = DisentangledVAE(alloys.components, ["a"], members=2, hidden=(3,)).eval()  # all weights are zero
    rows = alloys.rows("test")
    error = reconstruction_error(network, alloys.fractions[rows], alloys.target[rows], np.full((2, len(rows)), 0.5))
    assert error == pytest.approx(np.abs(20 - 100 * alloys.fractions[rows]).mean(), rel=1e-9)


def test_from_data_to_table(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment("dvae")
    runs = {}
    for part in experiment.parts(CONFIG):
        for repeat in range(part.repeats):
            folder = tmp_path / "runs" / part.variant / f"repeat_{repeat}"
            folder.mkdir(parents=True)
            checkpoints = tmp_path / "checkpoints" / part.variant / str(repeat)
            experiment.run(CONFIG, Job(part.variant, repeat, 3 + repeat, prepared, {}, folder, checkpoints, 1))
            runs.setdefault(part.variant, []).append(folder)
    assert len(read_metrics(runs["model"][0])["test_accuracy"]) == 2
    assert len(read_metrics(runs["quirk"][0])["test_accuracy"]) == 1
    labels = [read_metrics(run)["labels"][0] for run in runs["labels"]]
    assert labels == [12, 60]

    found = experiment.compare(CONFIG, prepared, runs)
    rows = {row.quantity: row for row in found.rows}
    assert rows["test accuracy"].repeats == 2 and rows["test accuracy"].paper == 0.877
    assert rows["test accuracy"].n_test == SIZES["test"]
    assert rows["test accuracy"].n_train == SIZES["labelled"] + SIZES["unlabelled"]
    assert rows["test accuracy, supervised MLP, 20% of labels"].n_train == 12
    assert "Latent plane" in found.figures and "Data efficiency" in found.figures
    assert any("missed" in paragraph for paragraph in found.analysis)
    ahead = [
        share
        for share in ("20%", "100%")
        if rows[f"test accuracy, dVAE, {share} of labels"].sluice_mean
        > rows[f"test accuracy, supervised MLP, {share} of labels"].sluice_mean
    ]
    said = next(paragraph for paragraph in found.analysis if paragraph.startswith("Data efficiency"))
    assert ("with " + ", ".join(ahead) in said) if ahead else ("at no share" in said)

    proposals = pd.read_csv(found.files["proposals.csv"], keep_default_na=False)
    assert len(proposals) == rows["new single-phase alloys proposed"].sluice_mean == 5
    known = load_alloys(prepared)
    assert not set(proposals["formula"]) & set(known.formulas)
    for formula in proposals["formula"]:
        shares = [int(digits) for digits in re.findall(r"\d+", formula)]
        assert sum(shares) == 100 and max(shares) <= 60 and sum(share >= 5 for share in shares) >= 3
    said = next(paragraph for paragraph in found.analysis if paragraph.startswith("Inverse design"))
    assert said.startswith("Inverse design: 5 of 5 alloys") and "for an element above 60 at.%" in said
    # The model file says of a proposal what the proposal says of itself.
    (tmp_path / "in.csv").write_text("formula\n" + "\n".join(proposals["formula"]) + "\n")
    score_input(found.model, tmp_path / "in.csv", tmp_path / "out.csv", device="cpu")
    again = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert np.allclose(again["score"].astype(float), proposals["single_phase_probability"], atol=1e-4)
    importance = pd.read_csv(found.files["importance.csv"])
    assert set(importance["feature"]) == set(EXTENDED) and importance["accuracy_lost"].is_monotonic_decreasing


def test_a_decoded_alloy_is_rejected_for_its_first_failure(prepared):
    """Al, Co, Cr, Fe, Ni in at.%; known is Al20Co20Cr20Fe20Ni20 alone."""
    alloys = load_alloys(prepared)
    alloys = dataclasses.replace(alloys, fractions=np.full((1, 5), 0.2))
    sieve = Sieve(alloys, DvaeSettings())
    kept = [
        sieve.keeps(np.array(percent), probability)
        for percent, probability in (
            ([48, 48, 4, 0, 0], 0.1),  # two principal elements, and an unlikely one with too much of an element
            ([40, 20, 20, 20, 0], 0.9),
            ([35, 25, 20, 20, 0], 0.79),
            ([21, 19, 20, 20, 20], 0.9),  # 1 at.% from the known one
            ([22, 18, 20, 20, 20], 0.9),  # 2 at.% from it
            ([22, 19, 19, 20, 20], 0.9),  # 1 at.% from the one before
            ([35, 35, 5, 25, 0], 0.8),  # on every limit
        )
    ]
    assert kept == [False] * 4 + [True, False, True]
    assert list(sieve.rejected.values()) == [1, 0, 1, 1, 1, 1]
    crowd = Sieve(alloys, DvaeSettings(max_elements=4))
    assert not crowd.keeps(np.array([24, 18, 20, 20, 18]), 0.9) and crowd.rejected["more than 4 elements"] == 1


@pytest.mark.parametrize(
    "limits",
    [{"min_share": 0.4}, {"min_elements": 21}, {"min_elements": 5, "max_elements": 4}, {"max_share": 0.09}],
)
def test_limits_that_no_alloy_meets_are_refused(limits):
    with pytest.raises(ValueError, match="no alloy of at most"):
        DvaeSettings(**limits)
