"""Train the generator of compositions: WGAN or MatGAN on the formulas of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sluice.chemistry.composition_store import composition_table
from sluice.chemistry.compositions import atomic_numbers
from sluice.chemistry.encodings import OneHotCounts
from sluice.config import Chemistry
from sluice.config_composition_campaign import CompositionGeneratorSettings
from sluice.errors import SluiceError
from sluice.models.composition_gan_training import train_composition_gan
from sluice.models.modelfile import save_model
from sluice.step import run_step
from sluice.store import Store
from sluice.train.common import derive_seed

REVISION = 1


def train_composition_generator(
    *,
    compositions: Path,
    settings: CompositionGeneratorSettings,
    chemistry: Chemistry,
    checkpoints: Path,
    seed: int,
    precision: str,
    threads: int,
    device: str,
    round: int,
    model: Path,
    metrics: Path,
) -> None:
    """Learn to draw compositions like those of the table's training split, of the chemistry's elements only.

    Args:
        compositions: the table (schema ``compositions``).
        settings: of networks and training; a share of the training split is held out to watch it.
        chemistry: its elements are the rows of the networks' matrices.
        checkpoints: folder that survives interruptions.
        seed: of the campaign.
        precision: lightning-fabric's name.
        threads: CPU threads; results are equal to the bit at equal threads.
        device: ``auto``, ``cpu`` or ``cuda``.
        round: number of this round.
        model: model file to write.
        metrics: CSV, one row an epoch.

    Raises:
        SluiceError: if there is nothing to learn from, or training diverged.
    """
    with Store(compositions, "compositions") as store:
        table, content, campaign = composition_table(store.rows()), store.content_sha256, store.attributes["campaign"]
    elements = sorted(chemistry.elements, key=lambda symbol: atomic_numbers()[symbol])
    known = table.compositions[table.rows("train")]
    problems = OneHotCounts(elements).problems(known)
    fit = known[np.flatnonzero([problem == "" for problem in problems])]
    if len(fit) < len(known):
        first = next(problem for problem in problems if problem)
        print(f"{len(known) - len(fit)} of {len(known)} formulas cannot be learned from, e.g. {first}")
    if len(fit) < 2:
        raise SluiceError(
            f"{compositions}: {len(fit)} formulas can be drawn by a generator (at most 8 atoms of an element in the"
            " smallest integers); give more formulas, or a larger chemistry"
        )
    network, arguments, _ = train_composition_gan(
        fit,
        settings,
        seed=derive_seed(seed, round, "composition_generator"),
        checkpoints=checkpoints,
        metrics=metrics,
        device=device,
        precision=precision,
        threads=threads,
        elements=elements,
    )
    save_model(
        model,
        kind=settings.model,
        task="generation",
        hyperparameters=arguments,
        state=network.state_dict(),
        facts={
            "elements": [atomic_numbers()[symbol] for symbol in elements],
            "training_sha256": content,
            "training_rows": len(fit),
            "campaign": campaign,
            "round": round,
            "seed": seed,
            "revision": REVISION,
        },
    )


if __name__ == "__main__":
    run_step(train_composition_generator)
