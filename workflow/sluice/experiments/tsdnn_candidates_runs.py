"""Jobs of the experiment with candidates: graphs, the classifiers, the one that learns from other candidates."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pymatgen.core import Composition

from sluice.crystals import Crystals
from sluice.experiments.experiment import Job
from sluice.experiments.folders import HISTORY_FILE, write_metrics
from sluice.experiments.mp_structures import read_structures, read_table
from sluice.experiments.tsdnn_data import folds_by_formula, read_candidates, read_labels, split_by_formula
from sluice.models.cgcnn_training import GraphLearner, roc_auc
from sluice.models.graph_store import read_graphs, write_graphs
from sluice.models.graphs import Graphs
from sluice.models.modelfile import save_model
from sluice.models.training import Plan, train
from sluice.models.tsdnn_training import TsdnnLearner
from sluice.provenance import sha256_of_text
from sluice.schemas import Column
from sluice.store import Store

if TYPE_CHECKING:
    from sluice.experiments.tsdnn_candidates import CandidateConfig

# Name of the job → labels it learns from, and the size at which it sees crystals.
CLASSIFIERS = {
    "unseparated": ("unseparated", "given"),
    "unseparated_touching": ("unseparated", "touching"),
    "separated": ("separated", "given"),
}
ADAPTED = "adapted"
LABELS = ("unseparated", "separated")
KNOWN = "known.csv"


def prepare(config: CandidateConfig, folder: Path) -> None:
    """One store of graphs at given, one at touching size: labelled and unlabelled materials, then the candidates.

    Materials of a candidate's composition are left out altogether. Splits are by formula.
    """
    s = config.settings
    labels_folder, structures = config.data_folders["tsdnn_labels"], config.data_folders["mp_structures"]
    candidates = read_candidates(labels_folder)
    formulas = candidates.crystals.reduced_formulas()
    labels = {name: read_labels(labels_folder, f"{name}_fe/data_labeled.csv.gz") for name in LABELS}
    rng = np.random.default_rng([config.seed, 5])
    labels = {
        k: v.sample(min(len(v), s.max_labelled), random_state=int(rng.integers(2**31))) for k, v in labels.items()
    }
    table = read_table(structures)
    cubic = table[table["cubicgan_like"] == 1]
    labelled = set(labels["unseparated"].index) | set(labels["separated"].index)
    pool = sorted(set(cubic["material_id"]) - labelled)
    unlabelled = set(rng.permutation(pool)[: s.unlabelled].tolist())
    ids, crystals = read_structures(structures, labelled | unlabelled, s.graphs.max_atoms)
    known = crystals.reduced_formulas()
    new = ~np.isin(known, sorted(set(formulas)))
    names = [name for name, keep in zip(ids, new, strict=True) if keep] + candidates.names
    everything = Crystals.concatenate([crystals[new], candidates.crystals])
    n = int(new.sum())
    all_formulas = [f for f, keep in zip(known, new, strict=True) if keep] + formulas
    columns: dict[str, tuple[Column, NDArray]] = {
        "candidate": (Column("?"), np.arange(len(names)) >= n),
        "formula": (Column("S64"), np.array(all_formulas, dtype="S64")),
        "split": (Column("S8"), np.array(split_by_formula(all_formulas, config.seed), dtype="S8")),
        "formation_energy": (Column("f8", "eV/atom"), np.r_[np.full(n, np.nan), candidates.formation_energy]),
        "authors_score": (Column("f8"), np.r_[np.full(n, np.nan), candidates.score]),
    }
    for name, label in labels.items():
        columns[name] = (Column("f8"), label.reindex(names).to_numpy(float))
    _write_known(folder, table, formulas, candidates.formation_energy)
    for scale in ("given", "touching"):
        write_graphs(
            folder / f"graphs_{scale}.h5", names, everything, columns,
            neighbours=s.graphs.neighbours, cutoff=s.graphs.cutoff, scale=scale,
        )  # fmt: skip


def _write_known(folder: Path, table: pd.DataFrame, formulas: list[str], energies: NDArray[np.float64]) -> None:
    """Candidates whose composition the Materials Project has, with the lowest formation energy there."""
    found = pd.DataFrame({"formula": formulas, "authors_ev_per_atom": energies})
    energy = table[["e_form", "e_form_mp20"]].min(axis=1)
    # Names of formulas differ between sources; elements and their number do not, and leave few to be parsed.
    wanted = {(f, len(Composition(f))) for f in formulas}
    kinds = {frozenset(Composition(f).as_dict()) for f, _ in wanted}
    rows = table[energy.notna() & table["n_elements"].isin({n for _, n in wanted})]
    near = [
        k for k, f in zip(rows.index, rows["formula"], strict=True) if frozenset(re.findall("[A-Z][a-z]?", f)) in kinds
    ]
    known = pd.DataFrame({"formula": [Composition(table["formula"][k]).reduced_formula for k in near]})
    known["mp_ev_per_atom"] = energy[near].to_numpy()
    lowest = known.groupby("formula", as_index=False)["mp_ev_per_atom"].min()
    found.merge(lowest, on="formula").to_csv(folder / KNOWN, index=False)


class Prepared:
    """What ``prepare`` wrote, for one size."""

    def __init__(self, folder: Path, scale: str) -> None:
        path = folder / f"graphs_{scale}.h5"
        self.names, self.graphs, self.columns = read_graphs(path)
        with Store(path, verify=False) as store:
            self.digest = store.content_sha256

    def rows(self, label: str, split: str) -> NDArray[np.int64]:
        """Materials with that label in a split."""
        return np.flatnonzero(np.isfinite(self.columns[label]) & (self.columns["split"] == split.encode()))

    @property
    def candidates(self) -> NDArray[np.int64]:
        """Rows of the candidates."""
        return np.flatnonzero(self.columns["candidate"])

    @property
    def unlabelled(self) -> NDArray[np.int64]:
        """Rows that are neither labelled nor candidates."""
        has = np.isfinite(self.columns["unseparated"]) | np.isfinite(self.columns["separated"])
        return np.flatnonzero(~has & ~self.columns["candidate"])


def plan_of(config: Any, job: Job, n_rows: int, digest: str, name: str = "") -> Plan:
    """How this experiment trains; ``name`` tells several trainings of one job apart."""
    training = config.settings.training
    return Plan(
        description=f"{job.variant} {job.repeat} {name}".strip(),
        n_rows=n_rows,
        epochs=training.epochs,
        batch_size=training.batch_size,
        seed=job.seed,
        digest=sha256_of_text(
            f"{config.settings.model_dump_json()} {job.variant} {job.seed} {config.precision} {digest}"
        ),
        checkpoints=job.checkpoints / name,
        checkpoint_minutes=0.5,
        metrics=job.checkpoints / name / "final_metrics.csv",
        device=config.device,
        precision=config.precision,
        threads=job.threads,
    )


def strained(graphs: Graphs, limit: float, seed: int) -> Graphs:
    """Every crystal at another size: what a generator's guess of the lattice constant does."""
    factors = np.exp(np.random.default_rng([seed, 3]).uniform(-limit, limit, len(graphs)))
    return graphs.scaled(factors)


def run_classifier(config: CandidateConfig, job: Job) -> None:
    """Train TSDNN on one set of labels; measure on its validation and test rows and on the candidates."""
    s = config.settings
    label, scale = CLASSIFIERS[job.variant]
    data = Prepared(job.prepared, scale)
    graph = s.graphs
    learner = TsdnnLearner(
        data.graphs,
        np.nan_to_num(data.columns[label]),
        labelled=data.rows(label, "train"),
        unlabelled=data.unlabelled,
        validation=data.rows(label, "val"),
        hyperparameters=s.training.sizes()
        | {"neighbours": graph.neighbours, "cutoff": graph.cutoff, "scale": scale, "answer": s.training.answer},
        **s.training.learner(),
    )
    plan = plan_of(config, job, len(learner.labelled), data.digest)
    train(learner, plan)
    learner.use_best()
    logits = learner.predict(np.arange(len(data.graphs)))
    metrics: dict[str, Any] = {"n_train": len(learner.labelled), "n_unlabelled": len(learner.unlabelled)}
    for split in ("val", "test"):
        rows = data.rows(label, split)
        target = data.columns[label][rows]
        metrics[f"{split}_roc_auc"] = roc_auc(target, logits[rows])
        metrics[f"{split}_accuracy"] = float(((logits[rows] > 0) == (target > 0.5)).mean())
    # What the choice among classifiers rests on: validation crystals at a wrong size, for candidates are not relaxed.
    if scale == "given":
        learner.graphs = strained(data.graphs, s.strain, config.seed)
    rows = data.rows(label, "val")
    metrics["val_strained_roc_auc"] = roc_auc(data.columns[label][rows], learner.predict(rows))
    write_metrics(job.folder, metrics)
    shutil.copyfile(plan.metrics, job.folder / HISTORY_FILE)
    _write_scores(job.folder, data, 1 / (1 + np.exp(-logits[data.candidates])))
    save_model(
        job.folder / "model.ckpt",
        kind="tsdnn",
        task="classification",
        hyperparameters=learner.hyperparameters,
        state=learner.network.state_dict(),
        facts={
            "output": f"probability of a negative formation energy; labels: {label}",
            "training_sha256": data.digest,
        },
    )


def run_adapted(config: CandidateConfig, job: Job) -> None:
    """A CGCNN learns from materials and the DFT labels of candidates of other compositions; one more from all of them.

    Each repeat deals the candidates into folds anew.
    """
    data = Prepared(job.prepared, "given")
    candidates = data.candidates
    formulas = [f.decode() for f in data.columns["formula"][candidates]]
    fold = folds_by_formula(formulas, config.settings.folds, job.seed)
    scores = np.zeros(len(candidates))
    for k in range(config.settings.folds):
        learner = _adapt(config, job, data, candidates[fold != k], f"fold_{k}")
        scores[fold == k] = learner.predict(candidates[fold == k])
    energy = data.columns["formation_energy"][candidates]
    metrics = {"roc_auc": roc_auc(energy < 0, scores), "n_train": len(data.rows("unseparated", "train"))}
    write_metrics(job.folder, metrics | {"n_candidates": int(len(candidates) * (1 - 1 / config.settings.folds))})
    _write_scores(job.folder, data, 1 / (1 + np.exp(-scores)))
    learner = _adapt(config, job, data, candidates, "all")
    save_model(
        job.folder / "model.ckpt",
        kind="cgcnn",
        task="classification",
        hyperparameters=learner.hyperparameters,
        state=learner.network.state_dict(),
        facts={
            "output": "probability of a negative formation energy; also learnt from DFT-checked candidates",
            "training_sha256": data.digest,
            "training_formulas": sorted(set(formulas)),
        },
    )


def _adapt(config: CandidateConfig, job: Job, data: Prepared, known: NDArray[np.int64], name: str) -> GraphLearner:
    s = config.settings
    target = np.nan_to_num(data.columns["unseparated"])
    target[data.candidates] = data.columns["formation_energy"][data.candidates] < 0
    weight = np.where(data.columns["candidate"], s.candidate_weight, 1.0)
    learner = GraphLearner(
        data.graphs,
        target,
        weight,
        training=np.concatenate([data.rows("unseparated", "train"), known]),
        validation=np.zeros(0, np.int64),  # the last epoch is kept: no candidate chooses the epoch
        task="classification",
        hyperparameters=s.training.sizes() | {"neighbours": s.graphs.neighbours, "cutoff": s.graphs.cutoff},
        learning_rate=s.training.learning_rate,
        weight_decay=s.training.weight_decay,
        batch_size=s.training.batch_size,
    )
    train(learner, plan_of(config, job, len(learner.training), f"{data.digest} {known.tolist()}", name))
    learner.use_best()
    return learner


def _write_scores(folder: Path, data: Prepared, scores: NDArray[np.float64]) -> None:
    rows = data.candidates
    energy, authors = data.columns["formation_energy"][rows], data.columns["authors_score"][rows]
    names = [data.names[i] for i in rows]
    table = {"id": names, "score": scores, "formation_energy_ev_per_atom": energy, "authors_score": authors}
    pd.DataFrame(table).to_csv(folder / "candidates.csv", index=False)
