"""The jobs of the stability and the synthesizability experiment, on a small world made here."""

import gzip
import math
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from crystals_for_models import decorated, labels
from mp_data import write_list, write_mp_data, write_structures

from sluice.errors import BadDataError, SluiceError
from sluice.experiments.experiment import Job
from sluice.experiments.folders import read_metrics
from sluice.experiments.mp_structures import TABLE
from sluice.experiments.plan import replaced
from sluice.experiments.tsdnn_stability import StabilityConfig, TsdnnStability
from sluice.experiments.tsdnn_stability_runs import CHANGES, VARIANTS
from sluice.experiments.tsdnn_synthesizability import BAG_ROW, SynthesizabilityConfig, TsdnnSynthesizability
from sluice.experiments.tsdnn_synthesizability_compare import AT_EQUAL_PRECISION
from sluice.experiments.tsdnn_synthesizability_mining import FIRST_PASS, Mined, lowest, ones_and_zeros, second_pass
from sluice.experiments.tsdnn_synthesizability_runs import (
    NO_BINARIES,
    SCORES,
    SPLITS,
    UNLABELLED,
    Tables,
    elements,
    new_compositions,
    read_scores,
    recall_and_precision,
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
    write_structures(structures, names, crystals)
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
        needed = {variant: runs[variant] for variant in part.needs}
        experiment.run(config, Job(part.variant, 0, 3, prepared, needed, run, folder / "c" / part.variant, 1))
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
    teachers = [networks[name].teacher.head.weight for name in ("unseparated", *CHANGES)]
    assert CHANGES.keys() < VARIANTS.keys() and all(not torch.equal(a, b) for a, b in combinations(teachers, 2))
    # The labels of this world are the signs of the energies, as far as those are known; -2 is no limit of its.
    assert rows["share of labels that the energies at hand confirm, E_f < 0"].sluice_mean == 1.0
    assert rows["share of labels that the energies at hand confirm, E_f < -2 eV/atom"].sluice_mean < 0.8


def test_synthesizability_holds_both_against_each_other_at_one_precision(world, tmp_path):
    settings = {"training": TRAINING, "graphs": GRAPHS, "bags": 3, "bag_epochs": 2, "bag_hidden_size": 6}
    settings |= {"mining_bags": 2, "mining_epochs": 2}
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
    for name, model in (("test", "TSDNN"), ("bags", "PU baseline")):
        with np.load(runs[name][0] / SCORES) as kept:
            tested = kept["label"]
        assert 0 < (tested == 1).sum() < len(tested)
        assert rows[f"precision on the test table, {model}"].n_test == len(tested)
        assert rows[f"TPR on test positives, {model}"].n_test == (tested == 1).sum()
        row = rows[f"precision on the test table, {model}"]
        assert row.n_train == read_metrics(runs[name][0])["n_train"][0]
    ones = np.array([len(np.unique(graphs.numbers[a:b])) for a, b in pairwise(graphs.node_offsets)])
    assert elements(graphs, np.arange(len(graphs))).tolist() == ones.tolist()
    with np.load(runs["time"][0] / SCORES) as kept:
        others = kept["score"][kept["label"] == 0]
    row = rows["share called positive of the others in the test table, time split, TSDNN"]
    assert (row.sluice_mean, row.n_test) == (pytest.approx((others > 0.5).mean()), len(others))
    assert rows["TPR on test positives, TSDNN"].note == "paper: arXiv; the published abstract says 0.929"
    _check_first_pass(config, tmp_path / "prepared", runs, comparison)
    (runs["test"][0] / SCORES).unlink()
    with pytest.raises(SluiceError, match="older version"):
        TsdnnSynthesizability().compare(config, tmp_path, runs)


def _check_first_pass(config, prepared, runs, comparison):
    """Zeros of the time split outside its test table were scored, the lowest mined; TSDNN learnt from those alone."""
    data = Tables(config, prepared)
    known, labels = data.rows(SPLITS["time"][0])
    known, labels = np.setdiff1d(known, data.rows(SPLITS["time"][1])[0]), dict(zip(known, labels, strict=True))
    zeros = [row for row in known if labels[row] == 0]
    positives = len(known) - len(zeros)
    mined = Mined.read(runs["mine_time"][0])
    assert sorted(mined.ids) == sorted(data.ids[zeros])
    assert mined.negative.sum() == min(positives, len(zeros))
    found = read_metrics(runs["mine_time"][0])
    assert (found["n_zeros"], found["n_mined"]) == ([len(zeros)], [mined.negative.sum()])
    labelled = positives + int(mined.negative.sum())
    assert read_metrics(runs["time"][0])["n_train"][0] == labelled - int(labelled * config.settings.validation_share)
    pool = np.union1d(data.rows(UNLABELLED)[0], data.place[list(mined.ids[~mined.negative])])
    pool = np.setdiff1d(pool, data.place[list(mined.ids[mined.negative])])
    pool = np.setdiff1d(pool, [*data.rows(SPLITS["time"][1])[0], *(row for row in known if labels[row] == 1)])
    assert read_metrics(runs["time"][0])["n_unlabelled"] == [len(pool)]
    rows = {row.quantity: row for row in comparison.rows}
    share = rows["share of zeros mined as negatives, time split, first pass"]
    assert (share.sluice_mean, share.n_test) == (mined.negative.mean(), len(zeros))
    highest = rows["highest score among those mined, time split, first pass"].sluice_mean
    assert highest == pytest.approx(mined.score[mined.negative].max(), abs=1e-12)
    said = f"negatives: {mined.negative.sum()} of the {len(zeros)} materials without a status in its table"
    assert rows["TPR on time split, TSDNN"].note.startswith(said)
    paragraph = next(text for text in comparison.analysis if "zeros of the time split" in text)
    assert f"the other {len(zeros) - mined.negative.sum()} joined the unlabelled" in paragraph
    assert f"{rows['TPR on time split, TSDNN'].sluice_mean:.1%} of the test positives" in paragraph


def test_negatives_are_the_zeros_of_lowest_score_as_many_as_positives():
    known, labels = np.array([7, 3, 5, 1, 9, 4, 8]), np.array([1, 0, 0, 0, 1, 0, 1])
    test = np.array([8, 1, 2])  # a positive and a zero of the table are in its test table
    ones, zeros = ones_and_zeros(known, labels, test)
    assert (sorted(ones), sorted(zeros)) == ([7, 9], [3, 4, 5])
    score_of = {3: 0.4, 4: 0.9, 5: 0.1, 1: 0.0, 8: 0.0}
    negatives = zeros[lowest(np.array([score_of[row] for row in zeros]), len(ones))]
    assert sorted(negatives) == [3, 5]
    keep = ~np.isin(known, test)
    rows, found, rest = second_pass(known[keep], labels[keep], negatives)
    assert dict(zip(rows, found, strict=True)) == {7: 1, 3: 0, 5: 0, 9: 1}
    assert rest.tolist() == [4]


def test_all_zeros_are_negatives_where_positives_are_more():
    assert lowest(np.array([0.3, 0.1]), 3).tolist() == [True, True]
    assert lowest(np.array([0.2, 0.1, 0.2]), 2).tolist() == [True, True, False]


def test_a_table_without_zeros_or_positives_cannot_be_mined():
    known, test = np.arange(4), np.array([3])
    for given in ([1, 1, 1, 0], [0, 0, 0, 1]):
        with pytest.raises(BadDataError, match="too few to mine negatives; raise"):
            ones_and_zeros(known, np.array(given), test)


def test_a_first_pass_without_its_file_is_told(tmp_path):
    with pytest.raises(SluiceError, match="delete this run and run the experiment again"):
        Mined.read(tmp_path)


def test_other_negatives_are_learnt_from_anew(world, tmp_path):
    """A first pass done again leaves TSDNN's finished training behind in the folder of checkpoints."""
    settings = {"training": TRAINING, "graphs": GRAPHS}
    config = SynthesizabilityConfig(
        experiment="tsdnn-synthesizability", title="t", paper="p", settings=settings, data_folders=world, device="cpu"
    )
    experiment, prepared, first = TsdnnSynthesizability(), tmp_path / "prepared", tmp_path / "mine_time"
    prepared.mkdir()
    first.mkdir()
    experiment.prepare(config, prepared)
    data = Tables(config, prepared)
    zeros = ones_and_zeros(*data.rows(SPLITS["time"][0]), data.rows(SPLITS["time"][1])[0])[1]
    scores = []
    for attempt, lowest_first in enumerate((True, True, False)):
        negative = (np.arange(len(zeros)) < len(zeros) // 2) == lowest_first
        Mined(data.ids[zeros], np.zeros(len(zeros)), negative).write(first)
        run = tmp_path / str(attempt)
        run.mkdir()
        experiment.run(config, Job("time", 0, 3, prepared, {"mine_time": [first]}, run, tmp_path / "c", 1))
        scores.append(read_scores(run)[0].tolist())
    assert scores[0] == scores[1] != scores[2]


def test_a_table_of_binaries_only_is_told(tmp_path):
    data = write_mp_data(tmp_path / "data")
    path = data["tsdnn_labels"] / "datasets" / SPLITS["test"][0]
    table = pd.read_csv(data["mp_structures"] / TABLE).set_index("material_id")
    ids = table.index[table["n_elements"] == 2]
    write_list(path, pd.DataFrame({"id": ids, "label": np.arange(len(ids)) % 2}))
    config = SynthesizabilityConfig(experiment="tsdnn-synthesizability", title="t", paper="p", data_folders=data)
    experiment = TsdnnSynthesizability()
    (tmp_path / "prepared").mkdir()
    experiment.prepare(config, tmp_path / "prepared")
    job = Job(NO_BINARIES, 0, 3, tmp_path / "prepared", {}, tmp_path, tmp_path / "c", 1)
    with pytest.raises(BadDataError, match=r"not both positives and negatives to learn from; raise settings\.max_rows"):
        experiment.run(config, job)


def test_the_first_pass_runs_before_tsdnn_and_concerns_its_split_only(world):
    config = SynthesizabilityConfig(experiment="tsdnn-synthesizability", title="t", paper="p", data_folders=world)
    experiment = TsdnnSynthesizability()
    needs = {part.variant: part.needs for part in experiment.parts(config)}
    assert {name: needs[name] for name in FIRST_PASS} == {"time": ("mine_time",), "elements": ("mine_elements",)}
    assert not any(needs[name] for name in ("mine_time", "mine_elements", "test", "bags"))
    for key, value in (("mining_bags", 4), ("mining_epochs", 9)):
        other = replaced(config, f"settings.{key}", value)
        changed = {name for name in needs if experiment.relevant(other, name) != experiment.relevant(config, name)}
        assert changed == {"mine_time", "mine_elements", "time", "elements"}
        assert experiment.relevant(other, "prepare") == experiment.relevant(config, "prepare")
    for key in ("bags", "bag_epochs"):
        other = replaced(config, f"settings.{key}", 7)
        changed = {name for name in needs if experiment.relevant(other, name) != experiment.relevant(config, name)}
        assert changed == {"bags"}
    longer = replaced(config, "settings.training.epochs", 7)
    assert experiment.relevant(longer, "mine_time") == experiment.relevant(config, "mine_time")


def test_the_first_passes_are_in_the_estimate(world):
    config = SynthesizabilityConfig(experiment="tsdnn-synthesizability", title="t", paper="p", data_folders=world)
    hours = [TsdnnSynthesizability().cpu_hours(replaced(config, "settings.mining_bags", bags)) for bags in (10, 20, 30)]
    rows = 75_000 + 133_000
    assert hours[2] - hours[1] == pytest.approx(hours[1] - hours[0])
    assert hours[1] - hours[0] == pytest.approx(rows * 10 * config.settings.mining_epochs * BAG_ROW / 3600)


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
    # A baseline that calls nothing positive has no precision to be compared at: no goal is met by it.
    assert math.isnan(recall_and_precision(np.full(3, 0.2), label[:3])["precision"])
    assert math.isnan(tpr_at_precision(score, label, math.nan))
    assert math.isnan(tpr_at_precision(score, np.zeros_like(label), 0.5))
    assert math.isnan(recall_and_precision(score, np.zeros_like(label))["tpr"])


def test_compositions_not_learnt_from():
    crystals = decorated((8, 9, 11))[0]
    graphs, formulas = build_graphs(crystals, neighbours=6, cutoff=5.0), np.array(crystals.reduced_formulas())
    rows, learnt = np.arange(0, len(crystals), 2), np.arange(1, 6)
    expected = ~np.isin(formulas[rows], formulas[learnt])
    assert 0 < expected.sum() < len(rows)
    np.testing.assert_array_equal(new_compositions(graphs, rows, learnt), expected)
