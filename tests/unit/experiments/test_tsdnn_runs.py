"""The jobs of the stability and the synthesizability experiment, on a small world made here."""

import gzip
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from crystals_for_models import decorated, labels

from sluice.errors import SluiceError
from sluice.experiments.experiment import Job
from sluice.experiments.folders import read_metrics
from sluice.experiments.mp_structures import FILES
from sluice.experiments.plan import replaced
from sluice.experiments.tsdnn_stability import StabilityConfig, TsdnnStability
from sluice.experiments.tsdnn_synthesizability import AT_EQUAL_PRECISION, SynthesizabilityConfig, TsdnnSynthesizability
from sluice.experiments.tsdnn_synthesizability_runs import (
    SCORES,
    SPLITS,
    UNLABELLED,
    elements,
    new_compositions,
    tpr_at_precision,
)
from sluice.models.graph_store import read_graphs
from sluice.models.graphs import build_graphs
from sluice.models.modelfile import load_model

TRAINING = {"hidden_size": 6, "head_size": 6, "convolutions": 1, "gaussians": 9, "epochs": 3, "batch_size": 32}
GRAPHS = {"neighbours": 6, "cutoff": 5.0}
N = 180


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Both data sets: 180 decorated prototypes, labelled by their made-up energies; half of the energies are known."""
    folder = tmp_path_factory.mktemp("data")
    crystals = decorated((8, 9, 11, 12, 17))[0]
    energy = labels(crystals)
    energy -= np.median(energy)
    names = [f"mp-{i}" for i in range(N)]
    structures, tables = folder / "mp_structures", folder / "tsdnn_labels" / "datasets"
    structures.mkdir()
    cells = np.array([structure.lattice.parameters for structure in crystals.structures()])
    for file in FILES:
        chosen = slice(None) if file == FILES[0] else slice(0)
        np.savez(
            structures / file, material_id=np.array(names)[chosen], cell=cells[chosen],
            offset=crystals.atom_offsets if file == FILES[0] else np.zeros(1, np.int64),
            z=crystals.numbers, frac=crystals.frac_coords,
        )  # fmt: skip
    known = np.arange(N) % 2 == 0
    table = pd.DataFrame({"material_id": names, "cubicgan_like": 1, "e_form": np.where(known, energy, np.nan)})
    table["e_form_mp20"] = np.nan
    with gzip.open(structures / "mp_table.csv.gz", "wt") as handle:
        table.to_csv(handle, index=False)

    def write(file, rows):
        (tables / file).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"id": np.array(names)[rows], "y": (energy[rows] < 0).astype(int)}).to_csv(
            tables / file, index=False, header=False
        )

    order = np.random.default_rng(1).permutation(N)
    for name in ("unseparated", "separated"):
        write(f"{name}_fe/data_labeled.csv.gz", order[:130])
    for learnt, test in SPLITS.values():
        write(learnt, order[:90])
        write(test, order[90:130])
    write(UNLABELLED, order[100:])
    return {"mp_structures": structures, "tsdnn_labels": tables.parent}


def run_all(experiment, config, folder):
    """Every job in turn, then the comparison."""
    prepared = folder / "prepared"
    prepared.mkdir()
    experiment.prepare(config, prepared)
    runs = {}
    for part in experiment.parts(config):
        run = folder / part.variant
        run.mkdir()
        experiment.run(config, Job(part.variant, 0, 3, prepared, {}, run, folder / "c" / part.variant, 1))
        runs[part.variant] = [run]
    return experiment.compare(config, prepared, runs), runs


def test_stability_measures_all_on_one_test_set_and_tells_what_each_learnt_from(world, tmp_path):
    settings = {"training": TRAINING, "graphs": GRAPHS}
    config = StabilityConfig(
        experiment="tsdnn-stability", title="t", paper="p", settings=settings, data_folders=world, device="cpu"
    )
    comparison, runs = run_all(TsdnnStability(), config, tmp_path)
    found = {name: read_metrics(run[0]) for name, run in runs.items()}
    assert len({tuple(found[name]["n_test"]) for name in found if name.startswith("unseparated")}) == 1
    n_train = {name: values["n_train"][0] for name, values in found.items()}
    assert n_train["unseparated_regression"] == n_train["unseparated_equal_rows"] < 0.7 * n_train["unseparated"]
    assert n_train["unseparated_supervised"] == n_train["unseparated"]
    rows = {row.quantity: row for row in comparison.rows}
    fewer = f"the regression learns from {int(n_train['unseparated_regression'])} of these rows"
    assert rows["accuracy gain over regression, E_f < 0"].note == fewer
    assert any("that of both (the paper: student)" in paragraph for paragraph in comparison.analysis)
    accuracy = {name: values["test_accuracy"][0] for name, values in found.items()}
    for quantity, name in (
        ("accuracy gain over regression, E_f < 0", "unseparated"),
        ("accuracy gain over regression on equal rows, E_f < 0", "unseparated_equal_rows"),
    ):
        expected = 100 * (accuracy[name] - accuracy["unseparated_regression"])
        assert rows[quantity].sluice_mean == pytest.approx(expected)
        assert rows[quantity].n_train == n_train[name]
    networks = {name: load_model(run[0] / "model.ckpt").network for name, run in runs.items()}
    assert networks["unseparated_regression"].dropout.p == 0.0
    assert networks["unseparated"].student.dropout.p == networks["unseparated_supervised"].dropout.p > 0
    # The labels of this world are the signs of the energies, as far as those are known; -2 is no limit of its.
    assert rows["share of labels that the energies at hand confirm, E_f < 0"].sluice_mean == 1.0
    assert rows["share of labels that the energies at hand confirm, E_f < -2 eV/atom"].sluice_mean < 0.8


def test_synthesizability_holds_both_against_each_other_at_one_precision(world, tmp_path):
    settings = {"training": TRAINING, "graphs": GRAPHS, "bags": 3, "bag_epochs": 2, "bag_hidden_size": 6}
    config = SynthesizabilityConfig(
        experiment="tsdnn-synthesizability", title="t", paper="p", settings=settings | {"bag_head_size": 6},
        data_folders=world, device="cpu",
    )  # fmt: skip
    comparison, runs = run_all(TsdnnSynthesizability(), config, tmp_path)
    rows = {row.quantity: row for row in comparison.rows}
    precision = read_metrics(runs["bags"][0])["precision"][0]
    with np.load(runs["test"][0] / SCORES) as kept:
        score, truth = kept["score"], kept["label"]
    row = rows[AT_EQUAL_PRECISION]
    at = [(score >= limit) for limit in np.unique(score)]
    good = [(truth[c] == 1).sum() / (truth == 1).sum() for c in at if (truth[c] == 1).mean() >= precision]
    assert row.sluice_mean == pytest.approx(max(good, default=0.0))
    assert f"{precision:.4f}" in row.note
    assert rows["parameters of the PU baseline over TSDNN's"].sluice_mean == pytest.approx(1.5)
    assert 0 <= rows["TPR on its held-out positives, PU baseline"].sluice_mean <= 1
    assert 0 <= rows["TPR on its held-out positives, TSDNN"].sluice_mean <= 1
    _, graphs, _ = read_graphs(tmp_path / "prepared" / "graphs.h5")
    ones = np.array([len(np.unique(graphs.numbers[a:b])) for a, b in pairwise(graphs.node_offsets)])
    assert elements(graphs, np.arange(len(graphs))).tolist() == ones.tolist()
    with np.load(runs["time"][0] / SCORES) as kept:
        others = kept["score"][kept["label"] == 0]
    row = rows["share called positive of the others in the test table, time split, TSDNN"]
    assert (row.sluice_mean, row.n_test) == (pytest.approx((others > 0.5).mean()), len(others))
    assert "without a status" in rows["TPR on time split, TSDNN"].note
    assert not rows["TPR on test positives, TSDNN"].note
    (runs["test"][0] / SCORES).unlink()
    with pytest.raises(SluiceError, match="older version"):
        TsdnnSynthesizability().compare(config, tmp_path, runs)


def test_parts_of_synthesizability_depend_on_their_own_settings_only(world):
    config = SynthesizabilityConfig(experiment="tsdnn-synthesizability", title="t", paper="p", data_folders=world)
    longer, more = replaced(config, "settings.training.epochs", 7), replaced(config, "settings.bags", 7)
    relevant = TsdnnSynthesizability().relevant
    changed = {
        variant: [relevant(other, variant) != relevant(config, variant) for other in (longer, more)]
        for variant in ("prepare", "bags", "test")
    }
    assert changed == {"prepare": [False, False], "bags": [False, True], "test": [True, False]}


def test_recall_at_a_precision_by_hand():
    score, label = np.array([0.9, 0.8, 0.7, 0.7, 0.1]), np.array([1, 0, 1, 1, 0])
    assert tpr_at_precision(score, label, 1.0) == pytest.approx(1 / 3)
    assert tpr_at_precision(score, label, 0.75) == 1.0  # the two of equal score are called together
    assert tpr_at_precision(score, label, 0.76) == pytest.approx(1 / 3)
    assert tpr_at_precision(-score, label, 0.9) == 0.0


def test_compositions_not_learnt_from():
    crystals = decorated((8, 9, 11))[0]
    graphs, formulas = build_graphs(crystals, neighbours=6, cutoff=5.0), np.array(crystals.reduced_formulas())
    rows, learnt = np.arange(0, len(crystals), 2), np.arange(1, 6)
    expected = ~np.isin(formulas[rows], formulas[learnt])
    assert 0 < expected.sum() < len(rows)
    np.testing.assert_array_equal(new_compositions(graphs, rows, learnt), expected)
