"""Train the generator: CubicGAN on ternary (or quaternary) cubic crystals of the training set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.config import GeneratorSettings
from sluice.errors import SluiceError
from sluice.models.cubicgan import SPACE_GROUPS
from sluice.models.cubicgan_training import GanLearner
from sluice.models.modelfile import save_model
from sluice.models.orbits import decompose
from sluice.models.training import Plan, train
from sluice.step import run_step
from sluice.store import Chunk, Store
from sluice.train.common import copy_outputs, derive_seed, has_stopped, training_digest

REVISION = 2


def train_generator(
    *,
    training_set: Path,
    settings: GeneratorSettings,
    checkpoints: Path,
    seed: int,
    precision: str,
    threads: int,
    device: str,
    devices: str,
    round: int,
    decision: list[Path],
    earlier: list[Path],
    model: Path,
    metrics: Path,
) -> None:
    """Train CubicGAN on those training crystals that are three (or four) orbits on the quarter grid.

    Args:
        training_set: schema ``dataset`` with ``confirmed`` and ``label_round``.
        settings: of the generator.
        checkpoints: folder that survives interruptions.
        seed: of the campaign.
        precision: lightning-fabric's name.
        threads: CPU threads; results are equal to the bit at equal threads.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: how many, a number or ``auto``: all GPUs given to the job.
        round: number of this round.
        decision: decision of the round before; if it says stop, its model is handed on.
        earlier: outputs of the round before.
        model: model file to write.
        metrics: CSV, one row an epoch.

    Raises:
        SluiceError: if there is nothing to learn from.
    """
    if has_stopped(decision):
        copy_outputs(earlier, [metrics, model])
        return
    with Store(training_set, "dataset") as store:
        rows, content, campaign = store.rows(), store.content_sha256, str(store.attributes["campaign"])
    data = rows.select(wanted(rows, settings.max_formation_energy))
    assert data.crystals is not None
    sites = decompose(data.crystals, SPACE_GROUPS, settings.base_sites)
    split = data.columns["split"][sites.index]
    fit = np.flatnonzero(split == b"train")
    what = f"{settings.base_sites} orbits on the quarter grid"
    print(f"{len(sites.index)} of {len(data)} crystals are {what}, {len(fit)} for training")
    if len(fit) == 0:
        raise SluiceError(
            f"{training_set}: none of {len(data)} crystals has {settings.base_sites} elements"
            " (train.generator.base_sites), is cubic (216, 221, 225) and on the quarter grid below"
            " train.generator.max_formation_energy; CubicGAN learns from such only"
        )
    dft = data.columns["label_round"][sites.index[fit]] > 0
    training = np.repeat(fit, np.where(dft, settings.dft_repeats, 1))
    learner = GanLearner(sites, settings, training=training, validation=np.flatnonzero(split == b"val"))
    train(
        learner,
        Plan(
            description="train generator",
            n_rows=len(training),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=derive_seed(seed, round, "generator"),
            digest=training_digest(
                "train_generator",
                REVISION,
                settings,
                content,
                seed=seed,
                round=round,
                precision=precision,
                threads=threads,
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
    counts = np.bincount(np.searchsorted(SPACE_GROUPS, sites.space_groups[training]), minlength=len(SPACE_GROUPS))
    save_model(
        model,
        kind="cubicgan",
        task="generation",
        hyperparameters=learner.hyperparameters,
        state=learner.weights(),
        facts={
            "space_groups": list(SPACE_GROUPS),
            "space_group_counts": counts.tolist(),
            "elements": sorted({int(z) for z in sites.elements[training].ravel()}),
            "random_elements": settings.random_elements,
            "training_sha256": content,
            "training_rows": len(fit),
            "dft_rows": int(dft.sum()),
            "campaign": campaign,
            "round": round,
            "seed": seed,
        },
    )


def wanted(rows: Chunk, max_formation_energy: float | None) -> NDArray[np.bool_]:
    """(n,) which rows the generator learns from: of DFT's only confirmed ones, none above the energy."""
    chosen: NDArray[np.bool_] = (rows.columns["label_round"] == 0) | rows.columns["confirmed"]
    if max_formation_energy is not None:
        chosen &= rows.columns["formation_energy_ev_per_atom"] < max_formation_energy
    return chosen


if __name__ == "__main__":
    run_step(train_generator)
