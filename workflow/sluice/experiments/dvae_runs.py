"""The jobs of the disentangled VAE's experiment: train the members of a recipe, measure each."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

from sluice.chemistry.alloy_features import FEATURE_SETS
from sluice.experiments.dvae_data import TARGET, Alloys, load_alloys
from sluice.experiments.experiment import Job
from sluice.experiments.folders import HISTORY_FILE, write_metrics
from sluice.models.dvae import DisentangledVAE
from sluice.models.dvae_training import AlloyTable, DvaeLearner, save_dvae
from sluice.models.training import Plan, train
from sluice.provenance import sha256_of_text

if TYPE_CHECKING:
    from sluice.experiments.dvae import DvaeConfig, Recipe

POINTS = 400  # most points of a learning curve
MLP_PASSES = 150


def run_recipe(config: DvaeConfig, recipe: Recipe, members: int, job: Job) -> None:
    """Train on all labels, measure on every split, write the model file."""
    alloys = load_alloys(job.prepared)
    labelled = np.tile(alloys.rows("labelled"), (members, 1))
    unlabelled = np.tile(alloys.rows("unlabelled"), (members, 1))
    learner = train_members(config, recipe, alloys, labelled=labelled, unlabelled=unlabelled, job=job)
    network = learner.network
    write_metrics(job.folder, measure(network, alloys, recipe.features))
    thin_history(job.checkpoints / "final_metrics.csv", job.folder / HISTORY_FILE)
    probability = single_phase(network, alloys.of(recipe.features))
    np.savez_compressed(job.folder / "probability.npz", probability=probability)
    save_dvae(job.folder / "model.ckpt", learner, alloys.elements, [str(f) for f in alloys.formulas])


def train_members(
    config: DvaeConfig,
    recipe: Recipe,
    alloys: Alloys,
    *,
    labelled: NDArray[np.int64],
    unlabelled: NDArray[np.int64],
    job: Job,
) -> DvaeLearner:
    """Train members on their labelled and unlabelled rows; the learner holds the trained network."""
    members = len(labelled)
    seeds = [config.seed + k for k in range(members)]
    hyperparameters: dict[str, Any] = {
        "elements": list(alloys.components),
        "features": list(FEATURE_SETS[recipe.features]),
        "hidden": list(recipe.hidden),
        "latent_size": recipe.latent_size,
        "prior_target": [recipe.prior_single_phase],
        "prior_scale": recipe.prior_scale,
        "dropout": recipe.dropout,
        "bins": recipe.bins,
    }
    table = AlloyTable(
        fractions=alloys.fractions,
        features=alloys.of(recipe.features),
        targets=alloys.target[:, None],
        labelled=labelled,
        unlabelled=unlabelled,
        validation=alloys.rows("validation"),
        target_names=(TARGET,),
    )
    learner = DvaeLearner(
        table,
        hyperparameters,
        seeds,
        learning_rate=recipe.learning_rate,
        plateau_epochs=recipe.plateau_epochs,
        schedule=recipe.schedule,
        keep=recipe.keep,
        aux=recipe.aux,
        weight_decay=recipe.weight_decay,
        init_std=recipe.init_std,
        validation_steps=recipe.validation_steps,
        evaluate_every=recipe.evaluate_every,
    )
    data = (job.prepared / "elements.json").read_text("utf-8") + str([alloys.fractions.tobytes(), labelled.tobytes()])
    train(
        learner,
        Plan(
            description=f"{job.variant} {job.repeat}",
            n_rows=table.n_rows,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            seed=job.seed,
            digest=sha256_of_text(f"{recipe.model_dump_json()} {seeds} {job.seed} {config.precision} {data}"),
            checkpoints=job.checkpoints,
            checkpoint_minutes=0.5,
            metrics=job.checkpoints / "final_metrics.csv",
            device=config.device,
            precision=config.precision,
            threads=job.threads,
        ),
    )
    learner.finish()
    return learner


def single_phase(network: DisentangledVAE, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S, n) single-phase probability by each member."""
    network.eval()
    with torch.inference_mode():
        return network.probabilities(torch.tensor(features, dtype=torch.float32))[..., 0].double().numpy()


def measure(network: DisentangledVAE, alloys: Alloys, feature_set: str) -> dict[str, Any]:
    """Accuracy of each member on every split, ROC AUC and reconstruction error on the test alloys."""
    probability = single_phase(network, alloys.of(feature_set))
    right = (probability > 0.5) == (alloys.target > 0.5)
    found: dict[str, Any] = {
        f"{name}_accuracy": right[:, alloys.rows(name)].mean(1).tolist()
        for name in ("labelled", "unlabelled", "validation", "test")
    }
    test = alloys.rows("test")
    found["test_roc_auc"] = [float(roc_auc_score(alloys.target[test], p[test])) for p in probability]
    error = reconstruction_error(network, alloys.fractions[test], alloys.target[test], probability[:, test])
    found["composition_mae_percent"] = error.tolist()
    ensemble = probability.mean(0)
    for name in ("unlabelled", "validation", "test"):
        rows = alloys.rows(name)
        found[f"ensemble_{name}_accuracy"] = float(((ensemble > 0.5) == (alloys.target > 0.5))[rows].mean())
    found["ensemble_test_roc_auc"] = float(roc_auc_score(alloys.target[test], ensemble[test]))
    return found


def reconstruction_error(
    network: DisentangledVAE,
    fractions: NDArray[np.float64],
    target: NDArray[np.float64],
    probability: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(S,) mean absolute error of the fractions in per cent, over all components, as the authors take it.

    The position is the mean of q(z | x, y) with the true label, decoded with the predicted probability, rounded to
    whole per cent and scaled to a sum of one.
    """
    members = network.members
    x = torch.tensor(fractions, dtype=torch.float32)[None].expand(members, -1, -1)
    y = torch.tensor(target, dtype=torch.float32)[None, :, None].expand(members, -1, -1)
    with torch.inference_mode():
        mean, _ = network.encode(x, y)
        again = network.decode(mean, torch.tensor(probability, dtype=torch.float32)[..., None]).exp()
    rounded = np.rint(100 * again.double().numpy())
    rounded = 100 * rounded / np.maximum(rounded.sum(-1, keepdims=True), 1.0)
    return np.abs(rounded - 100 * fractions).mean((1, 2))


def thin_history(source: Path, target: Path) -> None:
    """Keep a learning curve of thousands of epochs as a few hundred points."""
    table = pd.read_csv(source)
    step = max(1, len(table) // POINTS)
    table.iloc[::step].to_csv(target, index=False)


def run_label_share(config: DvaeConfig, recipe: Recipe, share: float, members: int, job: Job) -> None:
    """Keep a share of the labels, drawn anew for each seed; the rest of the training alloys is unlabelled."""
    alloys = load_alloys(job.prepared)
    all_labelled, rest = alloys.rows("labelled"), alloys.rows("unlabelled")
    keep = max(2, round(share * len(all_labelled)))
    kept, dropped = [], []
    for k in range(members):
        order = np.random.default_rng([config.seed, k, 11]).permutation(all_labelled)
        # At least one alloy of each class, or a baseline could not be fitted.
        first = [int(order[alloys.target[order] == c][0]) for c in (0, 1)]
        order = np.concatenate([first, order[~np.isin(order, first)]])
        kept.append(order[:keep])
        dropped.append(np.concatenate([order[keep:], rest]))
    learner = train_members(config, recipe, alloys, labelled=np.stack(kept), unlabelled=np.stack(dropped), job=job)
    metrics = measure(learner.network, alloys, recipe.features)
    baseline = [mlp_accuracy(alloys, recipe.features, rows, config.seed + k) for k, rows in enumerate(kept)]
    write_metrics(job.folder, metrics | {"share": share, "labels": keep, "mlp_test_accuracy": baseline})
    thin_history(job.checkpoints / "final_metrics.csv", job.folder / HISTORY_FILE)


def mlp_accuracy(alloys: Alloys, feature_set: str, rows: NDArray[np.int64], seed: int) -> float:
    """Test accuracy of scikit-learn's network of the same size, fitted to the labelled rows alone."""
    features = alloys.of(feature_set)
    mean, std = features[rows].mean(0), features[rows].std(0)
    scaled = (features - mean) / np.where(std > 0, std, 1.0)
    # As wide as the label head; their search over other widths, rates and L2 strengths found nothing clearly better.
    network = MLPClassifier(
        (100, 100),
        alpha=1e-4,
        learning_rate_init=1e-3,
        max_iter=MLP_PASSES,
        tol=0.0,
        n_iter_no_change=MLP_PASSES,
        random_state=seed,
    )
    with warnings.catch_warnings():  # the number of passes is fixed on purpose
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(scaled[rows], alloys.target[rows])
    test = alloys.rows("test")
    return float(network.score(scaled[test], alloys.target[test]))
