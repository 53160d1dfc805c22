import csv

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from sluice.cli import app
from sluice.models.cgcnn import CGCNN
from sluice.models.modelfile import save_model

SIZES = {"hidden_size": 4, "head_size": 4, "convolutions": 1, "gaussians": 5, "neighbours": 6, "cutoff": 5.0}


@pytest.fixture
def given(tmp_path):
    """A model, a folder of crystals and their energies."""
    folder = tmp_path / "cifs"
    folder.mkdir()
    names = [f"{a}{b}" for a in ("Na", "K", "Rb") for b in ("F", "Cl")]
    for name in names:
        metal, halogen = name.rstrip("FCl"), name[len(name.rstrip("FCl")) :]
        cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.5), [metal, halogen], [[0, 0, 0], [0.5, 0.5, 0.5]])
        cell.to(str(folder / f"{name}.cif"))
    (folder / "broken.cif").write_text("nothing")
    with (tmp_path / "known.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["material", "e_form"])
        writer.writerows([[name, -2.0 + k] for k, name in enumerate(names)])
        writer.writerow(["absent", 0.0])
    torch.manual_seed(0)
    model = tmp_path / "screener.ckpt"
    save_model(
        model, kind="cgcnn", task="regression", hyperparameters=SIZES, state=CGCNN(**SIZES).state_dict(), facts={}
    )
    return model, folder, tmp_path


def run(*words):
    return CliRunner().invoke(app, ["score", *map(str, words)])


def test_scores_are_held_against_named_columns(given):
    model, folder, work = given
    options = ("--labels", work / "known.csv", "--id-column", "material", "--label-column", "e_form", "--below", 0.5)
    result = run(model, folder, work / "out.csv", *options)
    assert result.exit_code == 0, result.output
    with (work / "out.csv").open() as handle:
        scores = {row["id"]: float(row["score"]) for row in csv.DictReader(handle) if row["score"]}
    assert len(scores) == 6
    with (work / "known.csv").open() as handle:
        known = {row["material"]: float(row["e_form"]) for row in csv.DictReader(handle)}
    mae = np.mean([abs(scores[name] - known[name]) for name in scores])
    assert f"MAE  {mae:.4f}" in result.output
    assert "positive: e_form ≤ 0.5" in result.output
    assert "1 of 7 have no score or no label" in result.output
    assert "labels of nothing that was scored: 1, e.g. absent" in result.output
    assert "share" not in result.output
    assert (work / "out_calibration.html").stat().st_size > 10_000


@pytest.fixture
def classifier(given):
    """A classifier in place of the regression, with classes 0 and 1 of the six crystals, and its scores."""
    _, folder, work = given
    torch.manual_seed(1)
    path = work / "classifier.ckpt"
    state = CGCNN(**SIZES).state_dict()
    facts = {"threshold_ev_per_atom": 0.5}  # as a campaign's screener has: classes must not be held against it
    save_model(path, kind="cgcnn", task="classification", hyperparameters=SIZES, state=state, facts=facts)
    assert run(path, folder, work / "plain.csv").exit_code == 0
    with (work / "plain.csv").open() as handle:
        scores = {row["id"]: float(row["score"]) for row in csv.DictReader(handle) if row["score"]}
    best = sorted(scores, key=scores.__getitem__)[-2:]
    lines = [f"{name},{int(name in best)},{-1.0 if name in best else 1.0}" for name in scores]
    (work / "classes.csv").write_text("\n".join(["id,made,energy", *lines]) + "\n")
    return path, folder, work


def metrics_of(output):
    return {line.rsplit(maxsplit=1)[0].strip(): line.split()[-1] for line in output.splitlines() if line}


def test_a_classifier_is_held_against_classes(classifier):
    """The two with the highest scores are of class 1: no other order is right."""
    model, folder, work = classifier
    labels = ("--labels", work / "classes.csv", "--label-column", "made")
    result = run(model, folder, work / "out.csv", *labels, "--classes")
    assert result.exit_code == 0, result.output
    found = metrics_of(result.output)
    assert "positive: class 1" in result.output and found["positive"] == "2"
    assert found["ROC AUC"] == "1.0000" and found["MAE"] == "-"
    result = run(model, folder, work / "out.csv", "--labels", work / "classes.csv", "--label-column", "energy")
    assert metrics_of(result.output)["ROC AUC"] == "1.0000", "values up to the model's threshold are positive"


def test_a_regression_is_held_against_classes(given, classifier):
    """Low predictions call class 1; 0 and 1 are no energies."""
    regression, folder, work = given
    labels = ("--labels", work / "classes.csv", "--label-column", "made")
    result = run(regression, folder, work / "out.csv", *labels)
    assert result.exit_code == 2 and "say --classes" in " ".join(result.output.split()), result.output
    hull = (work / "classes.csv").read_text().replace("made", "on_hull")
    (work / "hull.csv").write_text(hull)
    options = ("--labels", work / "hull.csv", "--label-column", "on_hull", "--classes")
    assert run(regression, folder, work / "out.csv", *options).exit_code == 0, "classes are no distances"
    result = run(regression, folder, work / "out.csv", *labels, "--classes", "--score-below", 100)
    found = metrics_of(result.output)
    assert found["positive"] == "2" and found["MAE"] == "-" and found["recall"] == "1.0000"


def test_classes_are_never_taken_for_values(classifier):
    model, folder, work = classifier
    labels = ("--labels", work / "classes.csv", "--label-column", "made")
    for options, said in (
        ((), "all labels are 0 or 1: say --classes"),
        (("--classes", "--below", 0.5), "give one of them"),
        (("--classes", "--score-below", 0.5), "gives probabilities"),
    ):
        result = run(model, folder, work / "out.csv", *labels, *options)
        assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output
        assert not (work / "out.csv").exists()
    result = run(model, folder, work / "out.csv", *labels, "--below", 0)
    assert metrics_of(result.output)["ROC AUC"] == "0.0000", "as the user says: low values are positive"
    (work / "classes.csv").write_text("id,made\nNaF,\n")
    result = run(model, folder, work / "out.csv", *labels)
    assert result.exit_code == 2 and "no row has both a score and a label" in " ".join(result.output.split())


def test_a_wrong_column_is_told_before_anything_is_scored(given):
    model, folder, work = given
    result = run(model, folder, work / "out.csv", "--labels", work / "known.csv")
    assert result.exit_code == 2
    assert not (work / "out.csv").exists()


def test_missing_files_are_named(given):
    model, folder, work = given
    assert run(model, folder, work / "out.csv", "--labels", work / "none.csv").exit_code == 2


def test_hull_distances_are_held_against_predicted_formation_energies(given):
    """Crystals on the hull lie at 0 exactly and are stable; there is no error between two quantities."""
    model, folder, work = given
    lines = (work / "known.csv").read_text().splitlines()[1:]
    rows = [f"{line.split(',')[0]},{0.0 if k < 2 else 0.1 * k}" for k, line in enumerate(lines)]
    (work / "hull.csv").write_text("\n".join(["id,e_above_hull", *rows]) + "\n")
    options = ("--labels", work / "hull.csv", "--label-column", "e_above_hull")
    result = run(model, folder, work / "out.csv", *options)
    assert result.exit_code == 2 and "--score-below" in result.output, "formation energies are no hull distances"
    result = run(model, folder, work / "out.csv", *options, "--score-below", 100)
    assert result.exit_code == 0, result.output
    assert "positive: e_above_hull ≤ 0" in result.output
    lines = metrics_of(result.output)
    assert lines["positive"] == "2" and lines["MAE"] == "-"
    assert lines["DAF"] == "1.0000" and lines["recall"] == "1.0000"  # all are called
    plot = (work / "out_calibration.html").read_text()
    assert "share of positives" in plot and '"perfect"' not in plot


def test_a_formation_energys_threshold_is_not_one_of_hull_distances(classifier):
    """The classifier's own threshold is 0.5 eV/atom of formation energy; on the hull lies what is 0."""
    model, folder, work = classifier
    lines = (work / "classes.csv").read_text().splitlines()[1:]
    rows = [f"{line.split(',')[0]},{0.0 if line.split(',')[1] == '1' else 0.3}" for line in lines]
    (work / "hull.csv").write_text("\n".join(["id,e_above_hull", *rows]) + "\n")
    options = ("--labels", work / "hull.csv", "--label-column", "e_above_hull")
    result = run(model, folder, work / "out.csv", *options)
    assert "positive: e_above_hull ≤ 0" in result.output
    assert metrics_of(result.output)["positive"] == "2" and metrics_of(result.output)["ROC AUC"] == "1.0000"
    assert '"perfect"' in (work / "out_calibration.html").read_text()
    result = run(model, folder, work / "out.csv", *options, "--below", 0.5)
    assert "every label is positive" in result.output
