"""Train the screener: a classifier of crystals below a formation energy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.config import ScreenerSettings
from sluice.errors import SluiceError
from sluice.models.cgcnn import CGCNN
from sluice.models.cgcnn_training import GraphLearner, roc_auc
from sluice.models.gatgnn import GATGNN
from sluice.models.graphs import prepare_graphs, usable
from sluice.models.layers import GraphNetwork
from sluice.models.modelfile import load_model, save_model
from sluice.models.scoring import score_crystals
from sluice.models.training import Plan, train
from sluice.schemas import Column
from sluice.step import run_step
from sluice.store import Store, StoreWriter
from sluice.train.common import copy_outputs, derive_seed, has_stopped, training_digest

REVISION = 3
SCREENERS: dict[str, type[GraphNetwork]] = {"cgcnn": CGCNN, "gatgnn": GATGNN}
LABELS = ("formation_energy_ev_per_atom", "label_source", "split")


def train_screener(
    *,
    training_set: Path,
    settings: ScreenerSettings,
    checkpoints: Path,
    seed: int,
    precision: str,
    threads: int,
    device: str,
    round: int,
    decision: list[Path],
    earlier: list[Path],
    model: Path,
    metrics: Path,
    predictions: Path,
) -> None:
    """Train a network to tell crystals below the threshold, and predict the held-out rows once.

    Args:
        training_set: schema ``dataset`` with ``label_round``.
        settings: of the screener.
        checkpoints: folder that survives interruptions.
        seed: of the campaign.
        precision: lightning-fabric's name.
        threads: CPU threads; results are equal to the bit at equal threads.
        device: ``auto``, ``cpu`` or ``cuda``.
        round: number of this round.
        decision: decision of the round before; if it says stop, its models are handed on.
        earlier: outputs of the round before.
        model: model file to write.
        metrics: CSV, one row an epoch.
        predictions: probabilities for validation and test rows, schema ``predictions``.

    Raises:
        SluiceError: if there are no training rows.
    """
    if has_stopped(decision):
        copy_outputs(earlier, [metrics, predictions, model])
        return
    with Store(training_set, "dataset") as store:
        data, content, campaign = store.rows(), store.content_sha256, str(store.attributes["campaign"])
    assert data.crystals is not None
    energy = data.columns["formation_energy_ev_per_atom"]
    split = data.columns["split"]
    fit = usable(data.crystals) & np.isfinite(energy)
    training = np.flatnonzero(fit & (split == b"train"))
    if len(training) == 0:
        raise SluiceError(f"{training_set}: no training rows with a crystal and a formation energy")
    is_dft = data.columns["label_round"] > 0
    threshold = class_threshold(settings, energy[fit & (split == b"train") & ~is_dft])
    graphs_of = np.full(len(energy), -1)
    graphs_of[fit] = np.arange(fit.sum())
    learner = GraphLearner(
        prepare_graphs(
            data.crystals[fit], neighbours=settings.neighbours, cutoff=settings.cutoff, scale=settings.scale
        ),
        (energy[fit] < threshold).astype(np.float32),
        np.where(is_dft[fit], settings.dft_weight, 1.0),
        training=graphs_of[training],
        validation=graphs_of[fit & (split == b"val")],
        task="classification",
        hyperparameters=network_sizes(settings),
        network_type=SCREENERS[settings.model],
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        batch_size=settings.batch_size,
    )
    train(
        learner,
        Plan(
            description="train screener",
            n_rows=len(training),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=derive_seed(seed, round, "screener"),
            digest=training_digest(
                "train_screener",
                REVISION,
                settings,
                content,
                seed=seed,
                round=round,
                precision=precision,
                threads=threads,
            ),
            checkpoints=checkpoints,
            checkpoint_minutes=settings.checkpoint_minutes,
            metrics=metrics,
            device=device,
            precision=precision,
            threads=threads,
        ),
    )
    learner.use_best()
    facts = {
        "output": f"probability that the formation energy lies below {threshold:.4f} eV/atom",
        "threshold_ev_per_atom": float(threshold),
        "elements": sorted({int(z) for z in data.crystals[training].numbers}),
        "training_sha256": content,
        "training_rows": len(training),
        "dft_rows": int(is_dft[training].sum()),
        "campaign": campaign,
        "round": round,
        "seed": seed,
    }
    scratch = model.with_name(f".{model.name}.new")  # the declared output appears last
    save_model(
        scratch,
        kind=settings.model,
        task="classification",
        hyperparameters=learner.hyperparameters,
        state=learner.network.state_dict(),
        facts=facts,
    )
    _predict(scratch, training_set, predictions, threshold=threshold, device=device, round=round)
    scratch.replace(model)


def network_sizes(settings: ScreenerSettings) -> dict[str, Any]:
    """The network's arguments, by its own names."""
    names = ["hidden_size", "gaussians", "neighbours", "cutoff", "scale"]
    if settings.model == "cgcnn":
        return settings.model_dump(include={*names, "head_size", "convolutions"})
    return settings.model_dump(include={*names, "heads"}) | {"layers": settings.convolutions}


def class_threshold(settings: ScreenerSettings, energies: NDArray[np.float64]) -> float:
    """Formation energy in eV/atom that divides the classes.

    ``median`` is that of the database's training rows: the classes mean the same in every round, and nothing is taken
    from held-out rows.
    """
    if settings.threshold != "median":
        return float(settings.threshold)
    if len(energies) == 0:
        raise SluiceError("the screener's threshold is the training median, but the database has no training rows")
    return float(np.median(energies))


def _predict(
    model_path: Path, training_set: Path, predictions: Path, *, threshold: float, device: str, round: int
) -> None:
    """Probabilities of the validation and test rows, made once with the kept weights."""
    model = load_model(model_path)
    columns = {"prototype": Column("S32"), "space_group": Column("i2")}
    with (
        Store(training_set, "dataset", verify=False) as store,
        StoreWriter(
            predictions,
            "predictions",
            columns=columns,
            inputs=[training_set],
            campaign=str(store.attributes["campaign"]),
            round_number=round,
            revision=REVISION,
            attributes={"threshold_ev_per_atom": float(threshold)},
        ) as writer,
    ):
        for chunk in store.chunks():
            held_out = chunk.select(chunk.columns["split"] != b"train")
            assert held_out.crystals is not None
            energy = held_out.columns["formation_energy_ev_per_atom"]
            known = np.isfinite(energy)
            target = np.where(known, energy < threshold, np.nan)
            score = score_crystals(model, held_out.crystals, device)
            good = np.isfinite(score) & known
            writer.drop(held_out.candidate_id[~good], "no graph or no label", kind="failed")
            writer.append_chunk(held_out.select(good), predicted=score[good], target=target[good])
    with Store(predictions, "predictions") as store:
        split = store.column("split")
        for name in (b"val", b"test"):
            rows = split == name
            auc = roc_auc(store.column("target")[rows], store.column("predicted")[rows])
            print(f"{name.decode()}: {int(rows.sum())} crystals, area under the ROC curve {auc:.4f}")


if __name__ == "__main__":
    run_step(train_screener)
