"""Jobs of the synthesizability experiment: graphs, mined negatives, TSDNN on each split, the bagged baseline."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sluice.errors import BadDataError, SluiceError
from sluice.experiments.experiment import Job
from sluice.experiments.folders import HISTORY_FILE, write_metrics
from sluice.experiments.mp_structures import read_structures
from sluice.experiments.tsdnn_candidates_runs import plan_of
from sluice.experiments.tsdnn_data import read_labels
from sluice.experiments.tsdnn_synthesizability_mining import (
    FIRST_PASS,
    MINES,
    Mined,
    lowest,
    ones_and_zeros,
    second_pass,
)
from sluice.models.graph_store import read_graphs, write_graphs
from sluice.models.graphs import Graphs
from sluice.models.modelfile import save_model
from sluice.models.pu_bags import draw_bags, draw_bags_in_pairs, out_of_bag
from sluice.models.pu_training import BagLearner
from sluice.models.training import train
from sluice.models.tsdnn_training import TsdnnLearner
from sluice.provenance import sha256_of_arrays
from sluice.store import Store

if TYPE_CHECKING:
    from sluice.experiments.tsdnn_synthesizability import SynthesizabilityConfig

GRAPHS = "graphs.h5"
SCORES = "test_scores.npz"
EXTRA = "synth_additional_validation"
# Job: the balanced table without its labelled crystals of two elements. All of its test positives have two, next to
# none of the positives learnt from and many negatives: it teaches that two elements speak against a material.
NO_BINARIES = "no_binaries"
BALANCED = ("balanced_synth/data_labeled.csv.gz", "balanced_synth/data_test.csv.gz")
# Job → table to learn from, table to measure on.
SPLITS = {
    "test": BALANCED,
    "time": (f"{EXTRA}/time_split/dataset.csv.gz", f"{EXTRA}/time_split/data_test.csv.gz"),
    "elements": (f"{EXTRA}/element_holdout/dataset.csv.gz", f"{EXTRA}/element_holdout/data_test.csv.gz"),
    NO_BINARIES: BALANCED,
}
UNLABELLED = "balanced_synth/data_unlabeled.csv.gz"


def read_table(config: SynthesizabilityConfig, file: str) -> pd.Series:
    """Labels of one table, at most ``max_rows`` of them, drawn with the configuration's seed."""
    labels = read_labels(config.data_folders["tsdnn_labels"], file)
    return labels.sample(min(len(labels), config.settings.max_rows), random_state=config.seed)


def prepare(config: SynthesizabilityConfig, folder: Path) -> None:
    """One store with the graphs of all materials of all tables."""
    s = config.settings
    wanted: set[str] = set()
    for file in {UNLABELLED, *(file for pair in SPLITS.values() for file in pair)}:
        wanted |= set(read_table(config, file).index)
    ids, crystals = read_structures(config.data_folders["mp_structures"], wanted, s.graphs.max_atoms)
    write_graphs(folder / GRAPHS, ids, crystals, {}, neighbours=s.graphs.neighbours, cutoff=s.graphs.cutoff)


class Tables:
    """Graphs, and the tables as rows of them."""

    def __init__(self, config: SynthesizabilityConfig, prepared: Path) -> None:
        self.config = config
        ids, self.graphs, _ = read_graphs(prepared / GRAPHS)
        self.ids = np.array(ids)
        self.place = pd.Series(np.arange(len(ids)), index=ids)
        with Store(prepared / GRAPHS, verify=False) as store:
            self.digest = store.content_sha256

    def digest_with(self, *arrays: NDArray) -> str:
        """Digest of the graphs and of which of them are learnt from as what: tables may change beside the store."""
        return f"{self.digest} {sha256_of_arrays(*arrays)}"

    def rows(self, file: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of a table's materials that have a graph, and their labels."""
        labels = read_table(self.config, file)
        labels = labels[labels.index.isin(self.place.index)]
        return self.place[labels.index].to_numpy(np.int64), labels.to_numpy(np.int64)


def recall_and_precision(score: NDArray[np.float64], label: NDArray[np.int64]) -> dict[str, float]:
    """TPR and precision at a probability of one half; NaN without a positive, or without a row called so."""
    called, positive = score > 0.5, label == 1
    hits, n_called, n_positive = (int(found.sum()) for found in (called & positive, called, positive))
    return {
        "tpr": hits / n_positive if n_positive else math.nan,
        "precision": hits / n_called if n_called else math.nan,
        "n_positive": n_positive,
    }


def tpr_at_precision(score: NDArray[np.float64], label: NDArray[np.int64], precision: float) -> float:
    """Greatest TPR of a threshold on the score at which the precision is at least the given one; 0 if none is.

    NaN if the precision is (its owner called nothing positive), or without a positive.
    """
    if math.isnan(precision) or not (label == 1).any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    hits, called = np.cumsum(label[order] == 1), np.arange(1, len(order) + 1)
    last_of_ties = np.append(np.diff(score[order]) != 0, True)
    reached = last_of_ties & (hits / called >= precision)
    return float(hits[reached].max(initial=0) / (label == 1).sum())


def new_compositions(graphs: Graphs, rows: NDArray[np.int64], learnt: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(r,) whether no crystal that was learnt from has the composition of the row."""
    both = np.concatenate([rows, learnt])
    part = graphs[both]
    counts = np.zeros((len(both), 256), np.int64)
    np.add.at(counts, (part.crystal_of_node, part.numbers), part.node_counts)
    counts //= np.maximum(1, np.gcd.reduce(counts, axis=1))[:, None]
    kind = np.unique(counts, axis=0, return_inverse=True)[1].ravel()
    return ~np.isin(kind[: len(rows)], kind[len(rows) :])


def elements(graphs: Graphs, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(r,) number of elements of each crystal."""
    part = graphs[rows]
    holds = np.zeros((len(rows), 256), bool)
    holds[part.crystal_of_node, part.numbers] = True
    return holds.sum(axis=1)


def measure(job: Job, score: NDArray[np.float64], truth: NDArray[np.int64], new: NDArray[np.bool_]) -> dict[str, float]:
    """Metrics on the test rows, and their scores kept for the comparison.

    Args:
        job: where to write.
        score: (t,) probabilities of the test rows.
        truth: (t,) their labels.
        new: (t,) whether nothing of that composition was learnt from.
    """
    np.savez_compressed(job.folder / SCORES, score=score, label=truth, new=new)
    fresh = recall_and_precision(score[new], truth[new])
    return recall_and_precision(score, truth) | {
        "tpr_new": fresh["tpr"],
        "n_positive_new": fresh["n_positive"],
    }


def read_scores(run: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores and labels of a run's test rows.

    Raises:
        SluiceError: if the run kept none.
    """
    if not (run / SCORES).is_file():
        raise SluiceError(f"{run}: {SCORES} is missing; the run is of an older version, delete it and run again")
    with np.load(run / SCORES) as arrays:
        return arrays["score"], arrays["label"]


def run_tsdnn(config: SynthesizabilityConfig, job: Job) -> None:
    """Train TSDNN on one table and measure it on its test table."""
    s = config.settings
    data = Tables(config, job.prepared)
    known, labels = data.rows(SPLITS[job.variant][0])
    test, truth = data.rows(SPLITS[job.variant][1])
    keep = ~np.isin(known, test)  # a material of the test table is never learnt from
    if job.variant == NO_BINARIES:
        keep &= elements(data.graphs, known) != 2
        if len(np.unique(labels[keep])) < 2:
            raise BadDataError(
                f"{BALANCED[0]}: but for crystals of two elements there are not both positives and negatives"
                " to learn from; raise settings.max_rows or settings.graphs.max_atoms"
            )
    known, labels = known[keep], labels[keep]
    others = data.rows(UNLABELLED)[0]
    if job.variant in FIRST_PASS:
        mined = Mined.read(job.needed[FIRST_PASS[job.variant]][job.repeat])
        negatives = data.place[pd.Index(mined.ids[mined.negative])].to_numpy(np.int64)
        known, labels, rest = second_pass(known, labels, negatives)
        others = np.concatenate([others, rest])
    unlabelled = np.setdiff1d(others, np.concatenate([known, test]))
    target = np.zeros(len(data.graphs))
    target[known] = labels
    order = np.random.default_rng([job.seed, 29]).permutation(len(known))
    n_validation = int(len(known) * s.validation_share)
    learner = TsdnnLearner(
        data.graphs,
        target,
        labelled=known[order[n_validation:]],
        unlabelled=unlabelled,
        validation=known[order[:n_validation]],
        hyperparameters=s.training.sizes()
        | {"neighbours": s.graphs.neighbours, "cutoff": s.graphs.cutoff, "answer": s.training.answer},
        **s.training.learner(),
    )
    plan = plan_of(config, job, len(learner.labelled), data.digest_with(known, labels, unlabelled))
    train(learner, plan)
    learner.use_best()
    parameters = sum(p.numel() for p in learner.network.parameters())
    new = new_compositions(data.graphs, test, learner.labelled)
    metrics = measure(job, _probability(learner.predict(test)), truth, new)
    metrics["unlabelled_positive"] = (
        float((learner.predict(unlabelled) > 0).mean()) if len(unlabelled) else float("nan")
    )
    own = learner.validation[target[learner.validation] == 1]
    metrics["held_out_tpr"] = float((learner.predict(own) > 0).mean()) if len(own) else float("nan")
    learnt = target[learner.labelled] == 1
    for name, rows in (
        ("binary_learnt", learner.labelled[learnt]),
        ("binary_negative", learner.labelled[~learnt]),
        ("binary_test", test[truth == 1]),
    ):
        metrics[name] = float((elements(data.graphs, rows) == 2).mean())
    sizes = {"n_train": len(learner.labelled), "n_unlabelled": len(unlabelled), "parameters": parameters}
    write_metrics(job.folder, {**metrics, **sizes})
    shutil.copyfile(plan.metrics, job.folder / HISTORY_FILE)
    save_model(
        job.folder / "model.ckpt",
        kind="tsdnn",
        task="classification",
        hyperparameters=learner.hyperparameters,
        state=learner.network.state_dict(),
        facts={"output": "probability of being synthesizable", "training_sha256": data.digest},
    )


def _probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits))


def run_bags(config: SynthesizabilityConfig, job: Job) -> None:
    """Train the bagged baseline on the balanced table's positives; all other rows are unlabelled."""
    s = config.settings
    data = Tables(config, job.prepared)
    known, labels = data.rows(SPLITS["test"][0])
    test, truth = data.rows(SPLITS["test"][1])
    others = data.rows(UNLABELLED)[0]
    positive, held_out = _hold_out(config, np.setdiff1d(known[labels == 1], test))
    away = np.concatenate([positive, held_out, test])
    unlabelled = np.setdiff1d(np.concatenate([known[labels == 0], others]), away)
    member = draw_bags(positive, unlabelled, len(data.graphs), s.bags, job.seed)
    learner = _train_bags(config, job, data, positive, member, epochs=s.bag_epochs)
    new = new_compositions(data.graphs, test, learner.rows)
    metrics = measure(job, learner.predict(test).mean(0), truth, new)
    metrics["held_out_tpr"] = _bags_recall(learner, held_out)
    # As published: a row's score is the mean over the bags that did not take it for a negative.
    scores = out_of_bag(learner.predict(unlabelled), member[:, unlabelled])
    metrics["unlabelled_positive"] = float((scores[np.isin(unlabelled, others)] > 0.5).mean())
    parameters = sum(p.numel() for p in learner.network.parameters())
    write_metrics(job.folder, {**metrics, "n_train": len(learner.rows), "parameters": parameters})
    save_model(
        job.folder / "model.ckpt",
        kind="pu_bags",
        task="classification",
        hyperparameters=learner.hyperparameters,
        state=learner.network.state_dict(),
        facts={"output": "mean probability of being synthesizable", "training_sha256": data.digest},
    )


def run_mining(config: SynthesizabilityConfig, job: Job) -> None:
    """First pass on a table without negatives: of its zeros, as many as it has positives become negatives."""
    s = config.settings
    data = Tables(config, job.prepared)
    learnt, tested = SPLITS[MINES[job.variant]]
    positive, zeros = ones_and_zeros(*data.rows(learnt), data.rows(tested)[0])
    shown, held_out = _hold_out(config, positive)
    # ASSUME: the two halves of a pair of bags are disjoint. The paper says how many bags it has, 100, with which hardly
    # any zero is in all; with a few, those that are would be scored by networks that took them for negatives.
    member = draw_bags_in_pairs(shown, zeros, len(data.graphs), s.mining_bags, job.seed)
    learner = _train_bags(config, job, data, shown, member, epochs=s.mining_epochs)
    score = out_of_bag(learner.predict(zeros), member[:, zeros])
    # ASSUME: how the zeros with the lowest scores were cut off is not said; the published balanced table has as many
    # negatives as positives, so that many are taken, among them the held-out positives' share.
    negative = lowest(score, len(positive))
    Mined(data.ids[zeros], score, negative).write(job.folder)
    metrics: dict[str, float] = {
        "n_positive": len(positive),
        "n_zeros": len(zeros),
        "n_mined": int(negative.sum()),
        "highest_mined": float(score[negative].max()),
        "held_out_tpr": _bags_recall(learner, held_out),
        "n_held_out": len(held_out),
        "n_train": len(learner.rows),
    }
    write_metrics(job.folder, metrics)


def _hold_out(
    config: SynthesizabilityConfig, positive: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positives that bags learn from and, as published, a share that is kept from all of them."""
    positive = np.random.default_rng([config.seed, 31]).permutation(positive)
    n_held_out = int(len(positive) * config.settings.held_out_positives)
    return positive[n_held_out:], positive[:n_held_out]


def _bags_recall(learner: BagLearner, rows: NDArray[np.int64]) -> float:
    return float((learner.predict(rows).mean(0) > 0.5).mean()) if len(rows) else float("nan")


def _train_bags(
    config: SynthesizabilityConfig,
    job: Job,
    data: Tables,
    positive: NDArray[np.int64],
    member: NDArray[np.bool_],
    *,
    epochs: int,
) -> BagLearner:
    """Bags that have learnt for so many epochs, each from the rows that it is given."""
    s = config.settings
    target = np.zeros(len(data.graphs))
    target[positive] = 1
    learner = _bag_learner(config, data.graphs, target, member)
    plan = plan_of(config, job, len(learner.rows), data.digest_with(positive, member))
    train(learner, replace(plan, epochs=epochs, batch_size=s.bag_batch_size))
    return learner


def _bag_learner(
    config: SynthesizabilityConfig, graphs: Graphs, target: NDArray, member: NDArray[np.bool_]
) -> BagLearner:
    s = config.settings
    sizes = s.training.sizes() | {"hidden_size": s.bag_hidden_size, "head_size": s.bag_head_size, "dropout": 0.0}
    return BagLearner(
        graphs,
        target,
        member,
        hyperparameters=sizes | {"bags": len(member), "neighbours": s.graphs.neighbours, "cutoff": s.graphs.cutoff},
        learning_rate=s.bag_learning_rate,
        batch_size=s.bag_batch_size,
    )
