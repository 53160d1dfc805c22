"""Jobs of the stability experiment: graphs, TSDNN with and without the published quirks, the regression."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sluice.experiments.experiment import Job
from sluice.experiments.folders import HISTORY_FILE, write_metrics
from sluice.experiments.mp_structures import read_structures, read_table
from sluice.experiments.tsdnn_candidates_runs import plan_of
from sluice.experiments.tsdnn_data import read_labels, split_by_formula
from sluice.models.cgcnn_training import GraphLearner, roc_auc
from sluice.models.graph_store import read_graphs, write_graphs
from sluice.models.graphs import Graphs
from sluice.models.modelfile import save_model
from sluice.models.training import train
from sluice.models.tsdnn_training import TsdnnLearner
from sluice.schemas import Column
from sluice.store import Store

if TYPE_CHECKING:
    from sluice.experiments.tsdnn_stability import StabilityConfig

REGRESSION, SUPERVISED = "regression", "CGCNN classifier, no unlabelled"
PAPER_FORM = "tsdnn in the paper's form"
EQUAL_ROWS = "tsdnn on the regression's rows"
WITH_ENERGIES = (REGRESSION, EQUAL_ROWS)  # these learn from, and choose the epoch on, materials with an energy only
# Name of the job → label set, way to learn.
VARIANTS = {
    "unseparated": ("unseparated", "tsdnn"),
    "unseparated_regression": ("unseparated", REGRESSION),
    "unseparated_equal_rows": ("unseparated", EQUAL_ROWS),
    "unseparated_supervised": ("unseparated", SUPERVISED),
    "unseparated_sign": ("unseparated", "tsdnn with the sign quirk"),
    "unseparated_average": ("unseparated", "tsdnn with the moving-average quirk"),
    "unseparated_paper": ("unseparated", PAPER_FORM),
    "unseparated_paper_sign": ("unseparated", f"{PAPER_FORM} with the sign quirk"),
    "unseparated_paper_average": ("unseparated", f"{PAPER_FORM} with the moving-average quirk"),
    "unseparated_paper_both": ("unseparated", f"{PAPER_FORM} with both quirks"),
    "separated": ("separated", "tsdnn"),
    "separated_regression": ("separated", REGRESSION),
    "separated_equal_rows": ("separated", EQUAL_ROWS),
    "separated_supervised": ("separated", SUPERVISED),
}
LIMITS = {"unseparated": 0.0, "separated": -2.0}  # eV/atom; what a 1 means
SIGN, AVERAGE = {"gain": "new_minus_old"}, {"moving_average": "redrawn"}
PAPER = {
    "answer": "student", "optimizer": "sgd", "learning_rate": 1e-3, "weight_decay": 0.0, "student_labels": 0.0,
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "unseparated_sign": SIGN,
    "unseparated_average": AVERAGE,
    "unseparated_paper": PAPER,
    "unseparated_paper_sign": PAPER | SIGN,
    "unseparated_paper_average": PAPER | AVERAGE,
    "unseparated_paper_both": PAPER | SIGN | AVERAGE,
}
GRAPHS = "graphs.h5"


def published_labels(config: StabilityConfig, name: str) -> pd.Series:
    """The authors' labels of one set, by id."""
    return read_labels(config.data_folders["tsdnn_labels"], f"{name}_fe/data_labeled.csv.gz")


def prepare(config: StabilityConfig, folder: Path) -> None:
    """One store of graphs with labels, energies and formulas."""
    s = config.settings
    rng = np.random.default_rng([config.seed, 5])
    labels = {}
    for name in LIMITS:
        found = published_labels(config, name)
        labels[name] = found.sample(min(len(found), s.max_labelled), random_state=int(rng.integers(2**31)))
    table = read_table(config.data_folders["mp_structures"]).set_index("material_id")
    labelled = set(labels["unseparated"].index) | set(labels["separated"].index)
    pool = sorted(set(table.index[table["cubicgan_like"] == 1]) - labelled)
    unlabelled = set(rng.permutation(pool)[: s.unlabelled].tolist())
    ids, crystals = read_structures(config.data_folders["mp_structures"], labelled | unlabelled, s.graphs.max_atoms)
    energy = table["e_form"].fillna(table["e_form_mp20"]).reindex(ids).to_numpy(float)
    columns: dict[str, tuple[Column, NDArray]] = {
        "formula": (Column("S64"), np.array(crystals.reduced_formulas(), dtype="S64")),
        "formation_energy": (Column("f8", "eV/atom"), energy),
    }
    for name, label in labels.items():
        columns[name] = (Column("f8"), label.reindex(ids).to_numpy(float))
    write_graphs(
        folder / GRAPHS, ids, crystals, columns, neighbours=s.graphs.neighbours, cutoff=s.graphs.cutoff
    )  # fmt: skip


def run(config: StabilityConfig, job: Job) -> None:
    """Train one model on the split of this repeat and measure it on the test rows, the same for all models."""
    label, way = VARIANTS[job.variant]
    _, graphs, columns = read_graphs(job.prepared / GRAPHS)
    with Store(job.prepared / GRAPHS, verify=False) as store:
        digest = store.content_sha256
    split = split_by_formula([f.decode() for f in columns["formula"]], job.seed)
    target, energy = columns[label], columns["formation_energy"]
    rows = {name: np.flatnonzero(np.isfinite(target) & (split == name)) for name in ("train", "val", "test")}
    test = rows["test"]
    if way in WITH_ENERGIES:
        rows = {name: r[np.isfinite(energy[r])] for name, r in rows.items()}
    if way in (REGRESSION, SUPERVISED):
        learner: GraphLearner | TsdnnLearner = _lone_network(
            config, graphs, way, rows, energy if way == REGRESSION else target
        )
    else:
        changes = dict(CHANGES.get(job.variant, {}))
        unlabelled = np.flatnonzero(~np.isfinite(columns["unseparated"]) & ~np.isfinite(columns["separated"]))
        learner = TsdnnLearner(
            graphs, np.nan_to_num(target), labelled=rows["train"], unlabelled=unlabelled, validation=rows["val"],
            hyperparameters=_sizes(config) | {"answer": changes.pop("answer", config.settings.training.answer)},
            **(config.settings.training.learner() | changes),
        )  # fmt: skip
    own = CHANGES.get(job.variant, {})
    plan = plan_of(config, job, len(rows["train"]), f"{digest} {learner.hyperparameters} {own}")
    train(learner, plan)
    learner.use_best()
    output = learner.predict(test)
    score = LIMITS[label] - output if way == REGRESSION else output
    truth = target[test] > 0.5
    known = np.isfinite(energy[test])
    write_metrics(
        job.folder,
        {
            "test_accuracy": float(((score > 0) == truth).mean()),
            "test_roc_auc": roc_auc(truth, score),
            "label_agreement": float(((energy[test] < LIMITS[label]) == truth)[known].mean()) if known.any() else None,
            "n_train": len(rows["train"]),
            "n_test": len(truth),
            "n_test_with_energy": int(known.sum()),
        },
    )
    shutil.copyfile(plan.metrics, job.folder / HISTORY_FILE)
    limit = LIMITS[label]
    save_model(
        job.folder / "model.ckpt",
        kind="cgcnn" if way in (REGRESSION, SUPERVISED) else "tsdnn",
        task="regression" if way == REGRESSION else "classification",
        hyperparameters=learner.hyperparameters,
        state=learner.network.state_dict(),
        facts={
            "output": "formation energy, eV/atom"
            if way == REGRESSION
            else f"probability that the formation energy lies below {limit:g} eV/atom",
            "threshold_ev_per_atom": limit,
            "training_sha256": digest,
        },
    )


def _sizes(config: StabilityConfig) -> dict[str, Any]:
    s = config.settings
    return s.training.sizes() | {"neighbours": s.graphs.neighbours, "cutoff": s.graphs.cutoff}


def _lone_network(
    config: StabilityConfig, graphs: Graphs, way: str, rows: dict[str, NDArray], values: NDArray
) -> GraphLearner:
    """One CGCNN without unlabelled crystals: the regression, or a classifier of the same labels as TSDNN's.

    The regression drops nothing: the published CGCNN has dropout in its classifier only.
    """
    training, sizes = config.settings.training, _sizes(config)
    if way == REGRESSION:
        fit = values[rows["train"]]
        sizes |= {"shift": float(fit.mean()), "spread": float(fit.std()), "dropout": 0.0}
    return GraphLearner(
        graphs, np.nan_to_num(values), np.ones(len(graphs)),
        training=rows["train"], validation=rows["val"],
        task="regression" if way == REGRESSION else "classification", hyperparameters=sizes,
        learning_rate=training.learning_rate, weight_decay=training.weight_decay, batch_size=training.batch_size,
    )  # fmt: skip
