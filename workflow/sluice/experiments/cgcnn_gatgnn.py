"""CGCNN (Xie and Grossman 2018) and GATGNN (Louis et al. 2020) on formation energy and band gap."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from sluice.config_base import Count, Positive, Section
from sluice.experiments.experiment import Comparison, Experiment, ExperimentConfig, Job, Part, Row
from sluice.experiments.folders import HISTORY_FILE, write_metrics
from sluice.experiments.mp_structures import read_structures, read_table
from sluice.experiments.results import describe_fit, learning_curve, metric_of, missed_goals, summarize
from sluice.experiments.tsdnn_settings import ATOM_FEATURES, GraphSettings
from sluice.models.cgcnn import CGCNN
from sluice.models.cgcnn_training import GraphLearner
from sluice.models.gatgnn import GATGNN
from sluice.models.graph_store import read_graphs, write_graphs
from sluice.models.graphs import Graphs
from sluice.models.layers import GraphNetwork
from sluice.models.modelfile import save_model
from sluice.models.training import Plan, train
from sluice.provenance import sha256_of_text
from sluice.schemas import Column
from sluice.store import Store

# CPU seconds of a training row on one thread, and of a graph.
ROW, GRAPH = {"cgcnn": 1.0e-3, "gatgnn": 3.0e-3}, 6e-4
# Quantity → column of the table, the paper's list of materials, what it is called.
QUANTITIES = {
    "formation": ("e_form", "mp-ids-46744.csv.gz", "formation energy", "eV/atom"),
    "gap": ("band_gap", "mp-ids-27430.csv.gz", "band gap", "eV"),
}
# Of the papers' tables; none for CGCNN's band gap, which was not looked up at its source.
PAPER = {("cgcnn", "formation"): 0.039, ("gatgnn", "formation"): 0.039, ("gatgnn", "gap"): 0.31}
NETWORKS: dict[str, tuple[str, type[GraphNetwork]]] = {"cgcnn": ("CGCNN", CGCNN), "gatgnn": ("GATGNN", GATGNN)}
SHARES = (0.6, 0.2)  # of training and validation, as in CGCNN's paper


class ModelSettings(Section):
    """Settings of the experiment."""

    graphs: GraphSettings = GraphSettings(cutoff=8.0, max_atoms=200)
    gaussians: Count = Field(41, description="Gaussians that a distance is expanded in.")
    hidden_size: Count = Field(64, description="Length of an atom's feature vector.")
    head_size: Count = Field(128, description="Width of CGCNN's layer after pooling.")
    layers: Count = Field(3, description="Convolutions, or attention layers.")
    heads: Count = Field(4, description="Heads of attention of GATGNN.")
    epochs: Count = Field(150, description="Passes over the training crystals.")
    batch_size: Count = Field(64, description="Crystals in a step (published: 256).")
    learning_rate: Positive = Field(3e-3, description="AdamW's peak step.")
    weight_decay: float = Field(1e-5, ge=0, description="Weight decay.")
    max_rows: Count = Field(100_000, description="Most materials of each quantity.")


class ModelConfig(ExperimentConfig):
    """The experiment's configuration."""

    settings: ModelSettings = ModelSettings()


class CgcnnGatgnn(Experiment):
    """Both networks on both quantities, the same graphs and splits."""

    config_type = ModelConfig

    def parts(self, config: ModelConfig) -> list[Part]:
        """One part for each network and quantity."""
        return [
            Part(f"{network}_{quantity}", repeats=config.repeats) for network in NETWORKS for quantity in QUANTITIES
        ]

    def cpu_hours(self, config: ModelConfig) -> float:
        """Rows times the measured cost of one."""
        s = config.settings
        rows = sum(min(n, s.max_rows) for n in (33_000, 27_000))
        per_epoch = rows * SHARES[0] * sum(ROW.values())
        return (per_epoch * s.epochs * config.repeats + rows * GRAPH) / 3600

    def prepare(self, config: ModelConfig, folder: Path) -> None:
        """One store of graphs for each quantity."""
        s = config.settings
        table = read_table(config.data_folders["mp_structures"]).set_index("material_id")
        for quantity, (column, file, _, unit) in QUANTITIES.items():
            values = table[column].reindex(sorted(_listed(config, file) & set(table.index))).dropna()
            values = values.sample(min(len(values), s.max_rows), random_state=config.seed)
            ids, crystals = read_structures(config.data_folders["mp_structures"], values.index, s.graphs.max_atoms)
            columns = {"value": (Column("f8", unit), values[ids].to_numpy(float))}
            graph = s.graphs
            write_graphs(
                folder / f"{quantity}.h5", ids, crystals, columns, neighbours=graph.neighbours, cutoff=graph.cutoff
            )

    def run(self, config: ModelConfig, job: Job) -> None:
        """Train one network on one quantity."""
        network, quantity = job.variant.split("_")
        run_regression(config, job, network, quantity)

    def compare(self, config: ModelConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
        """Errors on test materials beside the papers'."""
        rows: list[Row] = []
        for network in NETWORKS:
            for quantity, (_, _, words, unit) in QUANTITIES.items():
                found = runs[f"{network}_{quantity}"]
                columns: dict[str, Any] = {n: int(metric_of(found[0], n)[0]) for n in ("n_train", "n_test")}
                paper = PAPER.get((network, quantity))
                rows.append(summarize(_error_of(network, quantity), found, "mae", paper=paper, unit=unit, **columns))
                if network == "cgcnn":
                    rows.append(summarize(f"test MAE of the training mean, {words}", found, "mean_mae", unit=unit))
        curve = learning_curve(
            {NETWORKS[n][0]: runs[f"{n}_formation"] for n in NETWORKS}, ["val_mae"], y_title="validation MAE, eV/atom"
        )
        return Comparison(
            rows=rows,
            figures={} if curve is None else {"Learning curve": curve},
            model=runs["cgcnn_formation"][0] / "model.ckpt",
            analysis=[
                *_causes(config, rows, runs),
                _materials(config, prepared),
                f"Splits are 60/20/20, drawn at random as in the papers. {ATOM_FEATURES} CGCNN's published error of the"
                " band gap was not at hand.",
            ],
        )


def _listed(config: ModelConfig, file: str) -> set[str]:
    """Ids of one of the papers' lists."""
    return set(pd.read_csv(config.data_folders["cgcnn_lists"] / file, header=None)[0].astype(str))


def _materials(config: ModelConfig, prepared: Path) -> str:
    """How many of the papers' materials are at hand, and why energies of two releases are not mixed."""
    table = read_table(config.data_folders["mp_structures"]).set_index("material_id")
    found = []
    for quantity, (column, file, words, _) in QUANTITIES.items():
        listed = _listed(config, file)
        known = table[column].reindex(sorted(listed & set(table.index)))
        with Store(prepared / f"{quantity}.h5", "graphs", verify=False) as store:
            used = len(store)
        found.append(
            f"of {len(listed)} materials in the paper's list for the {words} {len(known)} have a structure here,"
            f" {int(known.notna().sum())} of these a label, and {used} are used (at most {config.settings.max_rows}, of"
            f" at most {config.settings.graphs.max_atoms} atoms)"
        )
    text = (
        f"Materials are those of the papers' lists whose structure (2024 relaxation) and label (2019-2023) are at hand:"
        f" {'; '.join(found)}. Formation energies are of the lowest polymorph of a composition only."
    )
    apart = (table["e_form"] - table["e_form_mp20"]).abs().dropna()
    if len(apart):
        text += (
            f" Energies of another release, which has more polymorphs, were not mixed in: over the {len(apart)}"
            f" materials with both they differ by {apart.mean():.3f} eV/atom on average, {apart.median():.3f} in the"
            " median."
        )
    return text


def _causes(config: ModelConfig, rows: Sequence[Row], runs: Mapping[str, Sequence[Path]]) -> list[str]:
    """Why goals were missed, as far as the learning curves tell."""
    run_of = {_error_of(n, q): runs[f"{n}_{q}"][0] for n in NETWORKS for q in QUANTITIES}
    found = []
    for goal in missed_goals(config, rows):
        said = f"The goal {goal.quantity} {goal.describe()} is missed."
        if run := run_of.get(goal.quantity):
            said += f" It learns from {int(metric_of(run, 'n_train')[0])} materials. {describe_fit(run)}"
        found.append(said)
    return found


def _error_of(network: str, quantity: str) -> str:
    """The row of a network's error on a quantity."""
    return f"test MAE, {NETWORKS[network][0]}, {QUANTITIES[quantity][2]}"


def split_rows(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from (60 %), to choose the epoch by (20 %) and to measure on (20 %), drawn at random."""
    order = np.random.default_rng([seed, 41]).permutation(count)
    first, second = (int(count * share) for share in (SHARES[0], sum(SHARES)))
    return order[:first], order[first:second], order[second:]


def make_learner(
    settings: ModelSettings,
    network: str,
    graphs: Graphs,
    value: NDArray,
    *,
    training: NDArray[np.int64],
    validation: NDArray[np.int64],
) -> GraphLearner:
    """A network that has learnt nothing; mean and spread are of the training targets."""
    s = settings
    sizes: dict[str, Any] = {
        "hidden_size": s.hidden_size,
        "gaussians": s.gaussians,
        "neighbours": s.graphs.neighbours,
        "cutoff": s.graphs.cutoff,
        "shift": float(value[training].mean()),
        "spread": float(value[training].std()),
    }
    own = {
        "cgcnn": {"head_size": s.head_size, "convolutions": s.layers},
        "gatgnn": {"heads": s.heads, "layers": s.layers},
    }
    return GraphLearner(
        graphs,
        value,
        np.ones(len(value)),
        training=training,
        validation=validation,
        task="regression",
        hyperparameters=sizes | own[network],
        learning_rate=s.learning_rate,
        weight_decay=s.weight_decay,
        batch_size=s.batch_size,
        network_type=NETWORKS[network][1],
        loss="mae",
    )


def run_regression(config: ModelConfig, job: Job, network: str, quantity: str) -> None:
    """Train one network on one quantity, and measure on the test rows once."""
    s = config.settings
    _, graphs, columns = read_graphs(job.prepared / f"{quantity}.h5")
    with Store(job.prepared / f"{quantity}.h5", verify=False) as store:
        digest = store.content_sha256
    value = columns["value"]
    training, validation, test = split_rows(len(value), job.seed)
    learner = make_learner(s, network, graphs, value, training=training, validation=validation)
    plan = Plan(
        description=f"{job.variant} {job.repeat}",
        n_rows=len(training),
        epochs=s.epochs,
        batch_size=s.batch_size,
        seed=job.seed,
        digest=sha256_of_text(f"{s.model_dump_json()} {job.variant} {job.seed} {config.precision} {digest}"),
        checkpoints=job.checkpoints,
        checkpoint_minutes=0.5,
        metrics=job.checkpoints / "final_metrics.csv",
        device=config.device,
        precision=config.precision,
        threads=job.threads,
    )
    train(learner, plan)
    learner.use_best()
    error = np.abs(learner.predict(test) - value[test])
    metrics = {"mae": float(error.mean()), "mean_mae": float(np.abs(value[training].mean() - value[test]).mean())}
    write_metrics(job.folder, {**metrics, "n_train": len(training), "n_test": len(test)})
    shutil.copyfile(plan.metrics, job.folder / HISTORY_FILE)
    save_model(
        job.folder / "model.ckpt",
        kind=network,
        task="regression",
        hyperparameters=learner.hyperparameters,
        state=learner.network.state_dict(),
        facts={"output": QUANTITIES[quantity][2], "training_sha256": digest},
    )


EXPERIMENT = CgcnnGatgnn()
