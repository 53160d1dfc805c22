"""Train the screener: a classifier of crystals below a formation energy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.config import ScreenerSettings
from sluice.crystals import Crystals
from sluice.errors import SluiceError
from sluice.models.cgcnn import CGCNN
from sluice.models.cgcnn_training import GraphLearner, roc_auc
from sluice.models.gatgnn import GATGNN
from sluice.models.graphs import Graphs, prepare_graphs, usable
from sluice.models.layers import GraphNetwork
from sluice.models.modelfile import load_model, save_model
from sluice.models.scoring import score_crystals
from sluice.models.training import Plan, train
from sluice.models.tsdnn_training import TsdnnLearner
from sluice.schemas import Column
from sluice.step import run_step
from sluice.store import Chunk, Store, StoreWriter
from sluice.train.common import copy_outputs, derive_seed, has_stopped, training_digest
from sluice.train.unlabelled_crystals import draw_unlabelled

REVISION = 3
SCREENERS: dict[str, type[GraphNetwork]] = {"cgcnn": CGCNN, "gatgnn": GATGNN}


def train_screener(
    *,
    training_set: Path,
    settings: ScreenerSettings,
    checkpoints: Path,
    seed: int,
    precision: str,
    threads: int,
    device: str,
    devices: str,
    round: int,
    generator: list[Path],
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
        devices: how many, a number or ``auto``: all GPUs given to the job.
        round: number of this round.
        generator: the round's generator, if it is to draw unlabelled crystals.
        decision: decision of the round before; if it says stop, its models are handed on.
        earlier: outputs of the round before.
        model: model file to write.
        metrics: CSV, one row an epoch.
        predictions: probabilities for validation and test rows, schema ``predictions``.

    Raises:
        SluiceError: if there are no training rows, or no crystals without a label for a network that needs them.
    """
    if has_stopped(decision):
        copy_outputs(earlier, [metrics, predictions, model])
        return
    with Store(training_set, "dataset") as store:
        data, content, campaign = store.rows(), store.content_sha256, str(store.attributes["campaign"])
    assert data.crystals is not None
    energy, in_training = data.columns["formation_energy_ev_per_atom"], data.columns["split"] == b"train"
    fit = usable(data.crystals) & np.isfinite(energy)
    training = np.flatnonzero(fit & in_training)
    if len(training) == 0:
        raise SluiceError(f"{training_set}: no training rows with a crystal and a formation energy")
    is_dft = data.columns["label_round"] > 0
    threshold = class_threshold(settings, energy[fit & in_training & ~is_dft])
    below = energy[training] < threshold
    if below.all() or not below.any():
        raise SluiceError(
            f"train.screener.threshold: {threshold:g} eV/atom puts all {len(training)} training crystals into one"
            f" class; their formation energies lie between {energy[training].min():g} and {energy[training].max():g}"
        )
    drawn, drawn_by = Crystals.empty(), ""
    if settings.model == "tsdnn" and settings.tsdnn.generated:
        held_out = data.crystals[~in_training].reduced_formulas()
        drawn, drawn_by = _draw(
            generator, settings, seed=derive_seed(seed, round, "unlabelled"), without=set(held_out), device=device
        )
    learner = make_learner(data, settings, threshold=threshold, drawn=drawn)
    train(
        learner,
        Plan(
            description="train screener",
            n_rows=len(learner.labelled if isinstance(learner, TsdnnLearner) else learner.training),
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
                drawn_by=drawn_by,
                devices=devices,
            ),
            checkpoints=checkpoints,
            checkpoint_minutes=settings.checkpoint_minutes,
            metrics=metrics,
            device=device,
            devices=devices,
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
        "unlabelled_rows": len(learner.unlabelled) if isinstance(learner, TsdnnLearner) else 0,
        "generated_rows": len(drawn),
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


def make_learner(
    data: Chunk, settings: ScreenerSettings, *, threshold: float, drawn: Crystals
) -> GraphLearner | TsdnnLearner:
    """The network in training, on the crystals that have a usable cell.

    Args:
        data: rows of the training set.
        settings: of the screener.
        threshold: formation energy below which a crystal is of class 1, eV/atom.
        drawn: crystals of the generator's, without a label; TSDNN's alone.
    """
    assert data.crystals is not None
    energy, split = data.columns["formation_energy_ev_per_atom"], data.columns["split"]
    good = np.flatnonzero(usable(data.crystals))
    known, in_training = np.isfinite(energy[good]), split[good] == b"train"
    is_dft = data.columns["label_round"][good] > 0
    how: dict[str, Any] = {"neighbours": settings.neighbours, "cutoff": settings.cutoff, "scale": settings.scale}
    graphs = prepare_graphs(data.crystals[good], **how)
    target = (energy[good] < threshold).astype(np.float32)
    training, validation = np.flatnonzero(known & in_training), np.flatnonzero(known & (split[good] == b"val"))
    if settings.model != "tsdnn":
        return GraphLearner(
            graphs,
            target,
            np.where(is_dft, settings.dft_weight, 1.0),
            training=training,
            validation=validation,
            task="classification",
            hyperparameters=network_sizes(settings),
            network_type=SCREENERS[settings.model],
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            batch_size=settings.batch_size,
        )
    unlabelled = np.flatnonzero(in_training if settings.tsdnn.known else in_training & ~known)
    unlabelled = np.concatenate([unlabelled, len(good) + np.arange(len(drawn))])
    if len(unlabelled) == 0:
        raise SluiceError("TSDNN needs unlabelled crystals, but the generator drew none that has a usable cell")
    print(f"{len(training)} labelled and {len(unlabelled)} unlabelled crystals, {len(drawn)} of these generated")
    return TsdnnLearner(
        Graphs.concatenate([graphs, prepare_graphs(drawn, **how)]) if len(drawn) else graphs,
        np.concatenate([target, np.zeros(len(drawn))]),
        labelled=np.repeat(training, np.where(is_dft[training], max(1, round(settings.dft_weight)), 1)),
        unlabelled=unlabelled,
        validation=validation,
        hyperparameters=network_sizes(settings),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        batch_size=settings.batch_size,
        **settings.tsdnn.learning(),
    )


def _draw(
    generator: list[Path], settings: ScreenerSettings, *, seed: int, without: set[str], device: str
) -> tuple[Crystals, str]:
    """Unlabelled crystals of no held-out formula, and the digest of the model that drew them."""
    if len(generator) != 1:
        raise SluiceError("train.screener.tsdnn.generated asks for crystals, but no generator's model is given")
    model = load_model(generator[0])
    drawn = draw_unlabelled(model, settings.tsdnn.generated, seed=seed, without=without, device=device)
    if len(drawn) < settings.tsdnn.generated:
        print(f"{generator[0]}: drew only {len(drawn)} usable crystals of {settings.tsdnn.generated}")
    return drawn, model.sha256


def network_sizes(settings: ScreenerSettings) -> dict[str, Any]:
    """The network's arguments, by its own names."""
    names = ["hidden_size", "gaussians", "neighbours", "cutoff", "scale"]
    if settings.model == "gatgnn":
        return settings.model_dump(include={*names, "heads"}) | {"layers": settings.convolutions}
    sizes = settings.model_dump(include={*names, "head_size", "convolutions"})
    if settings.model == "tsdnn":
        return sizes | settings.tsdnn.model_dump(include={"dropout", "answer"})
    return sizes


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
