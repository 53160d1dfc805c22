"""The experiment with candidates: what its parts learn from, which classifier each row and each model file is of."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from crystals_for_models import decorated, labels
from mp_data import write_list, write_structures
from pymatgen.io.cif import CifWriter

from sluice.experiments import tsdnn_candidates_runs
from sluice.experiments.experiment import AppliedCut
from sluice.experiments.folders import read_metrics, write_metrics
from sluice.experiments.mp_structures import TABLE
from sluice.experiments.plan import load_experiment_config, make_job, plan_experiment, replaced
from sluice.experiments.tsdnn_candidates import CandidateConfig, TsdnnCandidates
from sluice.experiments.tsdnn_candidates_compare import compare
from sluice.experiments.tsdnn_candidates_runs import ADAPTED, CLASSIFIERS, KNOWN, LABELS, Prepared
from sluice.experiments.tsdnn_data import read_labels
from sluice.models.cgcnn import CGCNN
from sluice.models.modelfile import load_model
from sluice.models.tsdnn import TSDNN

ROOT = Path(__file__).parents[3]

# Two oxides below zero, two fluorides above; the authors' score orders one pair the wrong way round.
IDS = ["8-MgO-225-1", "8-CaO-225-2", "8-LiF-225-3", "8-NaF-225-4"]
ENERGY = [-2.0, -1.0, 1.0, 2.0]
AUTHORS = [0.9, 0.2, 0.3, 0.1]
SCORES = {ADAPTED: [0.9, 0.8, 0.2, 0.1], "unseparated_touching": [0.1, 0.2, 0.8, 0.9]}
STRAINED = {"unseparated": 0.6, "unseparated_touching": 0.9, "separated": 0.99}


@pytest.fixture
def found(tmp_path):
    runs = {}
    for name in (*CLASSIFIERS, ADAPTED):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        table = {"id": IDS, "score": SCORES.get(name, [0.5] * 4), "formation_energy_ev_per_atom": ENERGY}
        pd.DataFrame(table | {"authors_score": AUTHORS}).to_csv(run / "candidates.csv", index=False)
        metrics = {"n_train": 100, "val_strained_roc_auc": STRAINED.get(name), "test_roc_auc": 0.9}
        metrics |= {"test_accuracy": 0.8} | ({"n_candidates": 3} if name == ADAPTED else {})
        write_metrics(run, metrics)
        runs[name] = [run]
    known = {"formula": ["MgO", "LiF", "NaF"], "authors_ev_per_atom": [-9.0, 1, 2], "mp_ev_per_atom": [-3.0, -3, -2.5]}
    pd.DataFrame(known).to_csv(tmp_path / KNOWN, index=False)
    config = CandidateConfig(experiment="tsdnn-candidates", title="t", paper="p")
    return compare(config, tmp_path, runs), runs


def test_the_goals_rows_are_of_the_classifier_that_learnt_from_other_candidates(found):
    comparison, runs = found
    rows = {row.quantity: row for row in comparison.rows}
    row = rows["ROC AUC for E_f < 0"]
    assert (row.sluice_mean, row.paper, row.n_train, row.n_test) == (1.0, 0.75, 103, 4)
    assert "a CGCNN, not a TSDNN" in row.note and "folds by composition" in row.note
    assert rows["precision among the top half"].sluice_mean == 1.0
    assert comparison.model == runs[ADAPTED][0] / "model.ckpt"


def test_rows_without_any_candidates_label_stand_beside_them(found):
    comparison, runs = found
    rows = {row.quantity: row for row in comparison.rows}
    row = rows["ROC AUC for E_f < 0, no candidate's label seen"]
    assert (row.sluice_mean, row.n_train) == (0.0, 100)
    assert "a TSDNN that learnt from materials only" in row.note
    chosen = comparison.files["model_without_dft_labels.ckpt"]
    assert chosen == runs["unseparated_touching"][0] / "model.ckpt", "chosen on materials, of the sign of E_f"


def test_it_is_said_what_the_authors_score_may_be_compared_with(found):
    rows = [row for row in found[0].rows if row.paper is not None]
    unseen = [row.quantity for row in rows if row.quantity.endswith("no candidate's label seen")]
    assert len(unseen) == 2 and len(rows) == 4
    for row in rows:
        assert "the authors' score on the same rows, which saw no candidate's DFT label" in row.note
        fair = f"the row to compare it with is '{row.quantity}, no candidate's label seen'"
        assert (fair in row.note) == (row.quantity not in unseen)
    assert "the first rows are no comparison of methods" in " ".join(found[0].analysis)


def test_the_fluorides_that_are_known_are_named_and_no_other_candidate(found):
    row = next(row for row in found[0].rows if row.quantity.startswith("median authors'"))
    assert (row.sluice_mean, row.n_test) == (4.25, 2)
    assert row.note == "LiF: +1.00 against -3.00; NaF: +2.00 against -2.50"
    known = "For the 2 fluorides among the candidates that the Materials Project knows, the energies"
    said = f"lie +4.2 eV/atom (median) above its lowest ({row.note})"
    assert f"{known} {said}" in " ".join(found[0].analysis)


def test_what_the_labels_hold_is_said(found):
    text = " ".join(found[0].analysis)
    assert "100.0% of the candidates with O" in text and "0.0% of the candidates with F" in text
    assert "It reaches 1.000" in text and "It reaches 0.000, the authors' own score 0.750" in text


def test_five_repeats_need_no_cut_and_a_lower_cap_takes_repeats_first():
    experiment, config = load_experiment_config(ROOT / "config" / "experiments" / "tsdnn-candidates.yaml")
    planned = plan_experiment(experiment, config, "default")
    assert planned.repeats == 5 and not planned.applied
    assert {part.repeats for part in experiment.parts(planned)} == {5}
    # A run of one repeat took 0.3145 CPU-hours.
    assert experiment.cpu_hours(replaced(config, "repeats", 1)) == pytest.approx(0.3145, rel=0.03)
    assert 1.4 < experiment.cpu_hours(planned) < 1.7
    for cap, repeats, epochs in ((1.0, 3, 50), (0.7, 2, 50), (0.4, 1, 50), (0.2, 1, 30), (0.12, 1, 15)):
        cut = plan_experiment(experiment, replaced(config, "cpu_hours", cap), "default")
        assert (cut.repeats, cut.settings.training.epochs) == (repeats, epochs)
        assert cut.applied[0] == AppliedCut(setting="repeats", asked=5, used=repeats)


# A small world: decorations of the chemistry O F Na Mg Cl are materials; candidates are oxides and fluorides of Na and
# Mg, each with polymorphs among the materials, and fluorides of K and Mg, which no material is.
TRAINING = {"hidden_size": 6, "head_size": 6, "convolutions": 1, "gaussians": 9, "epochs": 3, "batch_size": 32}
SETTINGS = {"training": TRAINING, "graphs": {"neighbours": 6, "cutoff": 5.0}, "folds": 3}
LABELLED, SPLIT = 130, ("train", "val", "test")


def write_materials(root):
    """Both data sets without candidates; formula of each material by its id."""
    crystals = decorated((8, 9, 11, 12, 17))[0]
    energy = labels(crystals)
    energy -= np.median(energy)
    names, formulas = [f"mp-{i}" for i in range(len(crystals))], crystals.reduced_formulas()
    structures = root / "mp_structures"
    write_structures(structures, names, crystals)
    table = {"material_id": names, "formula": formulas, "n_elements": 3, "cubicgan_like": 1, "e_form": energy}
    pd.DataFrame(table | {"e_form_mp20": np.nan}).to_csv(structures / TABLE, index=False)
    chosen = np.random.default_rng(1).permutation(len(names))[:LABELLED]
    for name, limit in (("unseparated", 0.0), ("separated", -0.1)):
        rows = pd.DataFrame({"id": np.array(names)[chosen], "label": (energy[chosen] < limit).astype(int)})
        write_list(root / "tsdnn_labels" / "datasets" / f"{name}_fe" / "data_labeled.csv.gz", rows)
    return dict(zip(names, formulas, strict=True))


def write_candidates(folder):
    """The authors' table and archive; formula of each candidate by its id."""
    folder.mkdir()
    formula_of, rows = {}, []
    with zipfile.ZipFile(folder / "cifs.zip", "w") as packed:
        for elements in ((8, 11, 12), (9, 11, 12), (9, 12, 19)):
            crystals = decorated(elements)[0]
            energy, structures = labels(crystals), list(crystals.structures())
            for k in range(0, len(crystals), 2):
                formula = crystals.reduced_formulas()[k]
                name = f"{crystals.n_atoms[k]}-{formula}-225-{len(rows)}"
                cell = structures[k]
                cell.scale_lattice(cell.volume * 1.1)
                packed.writestr(f"{name}.cif", str(CifWriter(cell)))
                rows.append({"formula": name, "score": (7 * len(rows) % 27) / 27, "Eform": energy[k] / 1000})
                formula_of[name] = formula
    table = pd.DataFrame(rows)
    table["Eform"] -= table["Eform"].median()
    table.to_csv(folder / "results.csv", index=False)
    return formula_of


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The small world's folder, and the formula of everything in it by its id."""
    root = tmp_path_factory.mktemp("world")
    materials = write_materials(root)
    return root, materials | write_candidates(root / "tsdnn_labels" / "paper_results")


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """All parts with two repeats; what each network learnt from and answered."""
    root, folder = world[0], tmp_path_factory.mktemp("run")
    config = CandidateConfig(
        experiment="tsdnn-candidates", title="t", paper="p", repeats=2, settings=SETTINGS, device="cpu",
        data_folders={name: root / name for name in ("mp_structures", "tsdnn_labels")},
    )  # fmt: skip
    experiment, prepared, runs, learners = TsdnnCandidates(), folder / "prepared", {}, {}
    prepared.mkdir()
    experiment.prepare(config, prepared)
    with pytest.MonkeyPatch.context() as patch:
        for part in experiment.parts(config):
            runs[part.variant] = [folder / "runs" / part.variant / f"repeat_{k}" for k in range(part.repeats)]
            for k, run in enumerate(runs[part.variant]):
                run.mkdir(parents=True)
                learners[part.variant, k] = []
                for name in ("GraphLearner", "TsdnnLearner"):
                    patch.setattr(tsdnn_candidates_runs, name, recorded(name, learners[part.variant, k]))
                checkpoints = folder / "checkpoints" / part.variant / str(k)
                job = make_job(
                    config, run=run, prepared=prepared, needed=[], folder=run, checkpoints=checkpoints, threads=1
                )
                experiment.run(config, job)
                patch.undo()
    return prepared, runs, learners, experiment.compare(config, prepared, runs)


def recorded(name, found):
    """The learner of that name, appended to ``found`` when it is made; it keeps what it was asked and its answers."""

    class Recorded(getattr(tsdnn_candidates_runs, name)):
        def __init__(self, *arguments, **named):
            self.asked = []
            found.append(self)
            super().__init__(*arguments, **named)

        def predict(self, rows, *others):
            answer = super().predict(rows, *others)
            self.asked.append((self.graphs, rows, answer))
            return answer

    return Recorded


def test_materials_of_a_candidates_composition_are_left_out(world, finished):
    (root, formula_of), prepared = world, finished[0]
    named = {name for name in formula_of if not name.startswith("mp-")}
    compositions = {formula_of[name] for name in named}
    polymorphs = {name for name in formula_of if name not in named and formula_of[name] in compositions}
    labelled = set(read_labels(root / "tsdnn_labels", "unseparated_fe/data_labeled.csv.gz").index)
    assert polymorphs & labelled and polymorphs - labelled, "the world has both, else this test could not fail"
    for scale in ("given", "touching"):
        data = Prepared(prepared, scale)
        assert {data.names[i] for i in data.candidates} == named
        assert set(data.names) == set(formula_of) - polymorphs
        rows = {split: np.concatenate([data.rows(name, split) for name in LABELS]) for split in SPLIT}
        used = {split: {formula_of[data.names[i]] for i in rows[split]} for split in SPLIT}
        for split in SPLIT:
            others = set().union(*(used[other] for other in SPLIT if other != split), compositions)
            assert used[split] and not used[split] & others
        unlabelled = {data.names[i] for i in data.unlabelled}
        assert unlabelled == set(formula_of) - named - polymorphs - labelled
        assert not {formula_of[name] for name in unlabelled} & compositions


@pytest.mark.parametrize("repeat", [0, 1])
def test_each_fold_is_scored_by_a_network_that_learnt_from_other_compositions(world, finished, repeat):
    formula_of, (prepared, runs, learners, _) = world[1], finished
    data = Prepared(prepared, "given")
    formulas = np.array([formula_of[name] for name in data.names])
    *folds, last = learners[ADAPTED, repeat]
    assert len(folds) == SETTINGS["folds"]
    scores = {}
    for fold in folds:
        ((scored, logits),) = [(rows, answer) for _, rows, answer in fold.asked if len(rows)]
        assert not set(formulas[scored]) & set(formulas[fold.training])
        learnt = set(fold.training)
        assert set(data.rows("unseparated", "train")) < learnt, "from materials, too"
        assert learnt - set(data.rows("unseparated", "train")) == set(data.candidates) - set(scored)
        scores |= dict(zip(scored, 1 / (1 + np.exp(-logits)), strict=True))
    assert sorted(scores) == sorted(data.candidates)
    table = pd.read_csv(runs[ADAPTED][repeat] / "candidates.csv")
    assert table["id"].tolist() == [data.names[i] for i in data.candidates]
    np.testing.assert_allclose(table["score"], [scores[i] for i in data.candidates])
    assert set(last.training) == set(data.rows("unseparated", "train")) | set(data.candidates)
    energy = data.columns["formation_energy"][data.candidates]
    for learner in (*folds, last):
        np.testing.assert_array_equal(learner.target[data.candidates], energy < 0)


@pytest.mark.parametrize("variant", list(CLASSIFIERS))
def test_a_classifier_of_materials_learns_from_no_candidates_composition(world, finished, variant):
    formula_of, (prepared, runs, learners, _) = world[1], finished
    label, scale = CLASSIFIERS[variant]
    data = Prepared(prepared, scale)
    formulas = np.array([formula_of[name] for name in data.names])
    for repeat, run in enumerate(runs[variant]):
        (learner,) = learners[variant, repeat]
        measured = [data.rows(label, split) for split in ("val", "test")] + [data.candidates]
        assert len(learner.labelled) and len(learner.unlabelled)
        assert not set(formulas[learner.labelled]) & set(formulas[np.concatenate(measured)])
        assert not set(formulas[learner.unlabelled]) & set(formulas[data.candidates])
        assert np.isfinite(data.columns[label][learner.labelled]).all()
        logits = next(answer for _, rows, answer in learner.asked if len(rows) == len(data.names))
        table = pd.read_csv(run / "candidates.csv")
        assert table["id"].tolist() == [data.names[i] for i in data.candidates]
        np.testing.assert_allclose(table["score"], 1 / (1 + np.exp(-logits[data.candidates])))
        found, rows = read_metrics(run), data.rows(label, "test")
        assert found["test_accuracy"] == [((logits[rows] > 0) == (data.columns[label][rows] > 0.5)).mean()]
        graphs, rows, _ = learner.asked[-1]
        assert rows.tolist() == data.rows(label, "val").tolist()
        assert (graphs.distances.shape == data.graphs.distances.shape) and (
            np.allclose(graphs.distances, data.graphs.distances) == (scale == "touching")
        ), "validation at a wrong size, where the size is seen"


def test_repeats_reach_every_part_and_the_comparison(finished):
    _, runs, learners, comparison = finished
    for variant in (*CLASSIFIERS, ADAPTED):
        first, second = (pd.read_csv(run / "candidates.csv") for run in runs[variant])
        assert (first["id"] == second["id"]).all() and not np.allclose(first["score"], second["score"])
    folds = [[sorted(learner.training) for learner in learners[ADAPTED, repeat]] for repeat in (0, 1)]
    assert folds[0] != folds[1], "dealt anew"
    for row in comparison.rows:
        assert np.isfinite(row.sluice_mean), row.quantity
        of_labels = row.quantity.startswith(("ROC AUC of the rule", "share of E_f < 0", "median authors'"))
        assert row.repeats == (1 if of_labels else 2), row.quantity
        assert (row.sluice_std is None) == of_labels and np.isfinite(row.sluice_std or 0.0), row.quantity
    rows = {row.quantity: row for row in comparison.rows}
    each = [read_metrics(run)["roc_auc"][0] for run in runs[ADAPTED]]
    row = rows["ROC AUC for E_f < 0"]
    assert (row.sluice_mean, row.sluice_std) == (pytest.approx(np.mean(each)), pytest.approx(np.std(each, ddof=1)))
    assert f"It reaches {np.mean(each):.3f} ± {np.std(each, ddof=1):.3f} (2 repeats)" in comparison.analysis[0]


def test_models_are_of_the_first_repeat_and_of_the_kind_that_is_said(finished):
    _, runs, _, comparison = finished
    assert comparison.model == runs[ADAPTED][0] / "model.ckpt"
    assert type(load_model(comparison.model).network) is CGCNN
    other = comparison.files["model_without_dft_labels.ckpt"]
    assert other.parent.name == "repeat_0" and type(load_model(other).network) is TSDNN
    assert any("Both model files are of the first repeat" in text for text in comparison.analysis)


def test_the_roc_curve_is_the_mean_over_repeats(finished):
    _, runs, _, comparison = finished
    curves = {curve.name: curve for curve in comparison.figures["ROC curves"].data}
    curve = curves["CGCNN that also learnt from candidates of other compositions"]
    each = [read_metrics(run)["roc_auc"][0] for run in runs[ADAPTED]]
    area = np.trapezoid(curve.y, curve.x)
    assert abs(each[0] - each[1]) > 2 * 0.003, "else this test could not fail"
    assert area == pytest.approx(np.mean(each), abs=0.003)
