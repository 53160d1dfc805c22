"""Jobs of the experiment `wgan`: a cell of Table 4, shares of the training set, the plane of t-SNE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from sluice.chemistry.charge_neutrality import charge_rule
from sluice.chemistry.compositions import Compositions, atomic_numbers
from sluice.chemistry.encodings import ELEMENTS_85, ElementFractions, Encoding, Magpie
from sluice.experiments.composition_gan_data import PROPERTIES, load_compositions
from sluice.experiments.composition_gan_runs import FORMULAS_FILE, load_gan
from sluice.experiments.experiment import ExperimentConfig, Job
from sluice.experiments.folders import METRICS_FILE, write_history, write_metrics
from sluice.models.composition_training import save_composition_model
from sluice.models.stacked_heads import StackedHeadsLearner
from sluice.models.training import Plan, train
from sluice.models.wgan import Wgan
from sluice.provenance import sha256_of_text

if TYPE_CHECKING:
    from sluice.experiments.wgan import HeadSettings

ENCODINGS = ("wgan", "magpie", "onehot")
CLASSES = ("iron-based", "copper-based", "other")
PLANE_FILE = "plane.npz"
NEIGHBOURS = 10


def encoding_of(name: str, job: Job) -> Encoding:
    """One of the three encodings.

    # ASSUME: with E one-hot vectors of the elements, T = E·W replaces each of them by a learned vector; so the paper's
    "one-hot" encoding is the sum of the elements' one-hot vectors, here times their shares of the atoms, as the learned
    one is. A matrix of counts could hold neither the fractional amounts of superconductors nor counts above eight.
    """
    if name == "magpie":
        return Magpie()
    if name == "onehot":
        return ElementFractions(ELEMENTS_85)
    network = load_gan(job.needed["gan"][0])
    assert isinstance(network, Wgan)
    return network.element_encoding()


def splits(n: int, members: int, shares: tuple[float, float], seed: int) -> tuple[NDArray[np.int64], ...]:
    """(members, ·) indices of training, validation and test rows; every member has a split of its own."""
    orders = np.stack([np.random.default_rng([seed, k, 31]).permutation(n) for k in range(members)])
    n_val, n_test = round(shares[0] * n), round(shares[1] * n)
    return orders[:, n_val + n_test :], orders[:, :n_val], orders[:, n_val : n_val + n_test]


def run_cell(config: ExperimentConfig, settings: HeadSettings, job: Job, *, name: str, encoding: str) -> None:
    """All repeats of the head on one encoding of one property; splits are equal for the three encodings."""
    compositions, target = load_compositions(job.prepared / f"{name}.npz")
    shares = (settings.validation_share, settings.test_share)
    training, validation, test = splits(len(target), config.repeats, shares, config.seed)
    how = encoding_of(encoding, job)
    values = how.encode(compositions).reshape(len(compositions), -1)
    learner = StackedHeadsLearner(
        values,
        target,
        training=training,
        validation=validation,
        widths=settings.widths,
        learning_rate=settings.learning_rate,
        loss=settings.loss,
    )
    data = f"{sha256_of_text(str(values.sum(axis=0).tolist()))} {len(target)} {target.sum()}"
    rows = train(
        learner,
        Plan(
            description=f"{name} {encoding}",
            n_rows=training.shape[1],
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=job.seed,
            digest=sha256_of_text(
                f"{settings.model_dump_json()} {config.repeats} {job.seed} {config.precision} {data}"
            ),
            checkpoints=job.checkpoints,
            checkpoint_minutes=settings.checkpoint_minutes,
            metrics=job.folder / "training.csv",
            device=config.device,
            precision=config.precision,
            threads=job.threads,
        ),
    )
    learner.use_best()
    error = learner.predict(test) - target[test]
    spread = ((target[test] - target[test].mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    metrics: dict[str, Any] = {
        "mae": np.abs(error).mean(axis=1).tolist(),
        "rmse": np.sqrt((error**2).mean(axis=1)).tolist(),
        "r2": (1 - (error**2).sum(axis=1) / spread).tolist(),
        "n_train": training.shape[1],
        "n_test": test.shape[1],
    }
    write_metrics(job.folder, metrics)
    write_history(job.folder, rows)
    data_settings = PROPERTIES[name][2]
    save_composition_model(
        job.folder / "model.ckpt",
        learner.ensemble(how, compositions),
        {
            "output": f"{data_settings.target_column}, {data_settings.unit}",
            "unit": data_settings.unit,
            "campaign": "experiment wgan",
        },
    )


def add_training_shares(job: Job, table: str) -> None:
    """Put the shares of the training formulas beside those of the draws."""
    compositions, _ = load_compositions(job.prepared / FORMULAS_FILE)
    rule = charge_rule(table)
    path = job.folder / METRICS_FILE
    metrics = json.loads(path.read_text(encoding="utf-8"))
    metrics |= {
        "training_neutral": float(rule.neutral(compositions).mean()),
        "training_ordered": float(rule.ordered(compositions).mean()),
        "n_training": len(compositions),
    }
    write_metrics(job.folder, metrics)


def superconductor_classes(compositions: Compositions) -> NDArray[np.int64]:
    """(n,) index in ``CLASSES``: iron with a pnictogen or chalcogen, copper with oxygen, or other."""
    numbers = atomic_numbers()

    def holds(*names: str) -> NDArray[np.bool_]:
        hit = np.isin(compositions.numbers, [numbers[name] for name in names])
        return np.bincount(compositions.rows, hit, minlength=len(compositions)) > 0

    found = np.full(len(compositions), 2)
    found[holds("Cu") & holds("O")] = 1
    found[holds("Fe") & holds("As", "P", "Sb", "Se", "Te", "S")] = 0
    return found


def run_tsne(job: Job, rows: int) -> None:
    """t-SNE of superconductors in each encoding, and how well the three families come apart without labels."""
    compositions, target = load_compositions(job.prepared / "supercon.npz")
    chosen = np.sort(np.random.default_rng([job.seed, 37]).permutation(len(target))[:rows])
    compositions = compositions[chosen]
    classes = superconductor_classes(compositions)
    planes, metrics = {}, {"rows": float(len(chosen))}
    for name in ENCODINGS:
        values = encoding_of(name, job).encode(compositions).reshape(len(chosen), -1).astype(np.float64)
        if name != "onehot":
            std = values.std(axis=0)
            values = (values - values.mean(axis=0)) / np.where(std > 1e-8, std, 1.0)
        plane = TSNE(
            perplexity=min(30.0, (len(chosen) - 1) / 3), init="pca", random_state=job.seed % 2**32, n_jobs=1
        ).fit_transform(values)
        planes[name] = plane
        metrics[f"{name}_silhouette"] = float(silhouette_score(plane, classes))
        metrics[f"{name}_purity"] = purity(plane, classes)
    np.savez_compressed(job.folder / PLANE_FILE, classes=classes, tc=target[chosen], **planes)
    write_metrics(job.folder, metrics)


def purity(plane: NDArray[np.float64], classes: NDArray[np.int64]) -> float:
    """Share of the ten nearest neighbours that are of the same class, mean of the classes' means."""
    near = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(plane).kneighbors(return_distance=False)[:, :NEIGHBOURS]
    same = (classes[near] == classes[:, None]).mean(axis=1)
    return float(np.mean([same[classes == c].mean() for c in np.unique(classes)]))


def read_planes(folder: Path) -> dict[str, NDArray[Any]]:
    """What ``run_tsne`` wrote."""
    with np.load(folder / PLANE_FILE) as arrays:
        return {name: arrays[name] for name in arrays.files}
