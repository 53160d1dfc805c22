"""Train the scorer of compositions: formation energies from formulas alone, with a spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.composition_store import NOT_ENCODED, composition_table
from sluice.chemistry.composition_table import CompositionTable
from sluice.config_composition_campaign import CompositionScorerSettings
from sluice.errors import SluiceError
from sluice.models.composition import CompositionModel
from sluice.models.composition_training import learned_encoding, save_composition_model, train_members
from sluice.step import run_step
from sluice.store import Store, StoreWriter
from sluice.train.common import derive_seed

REVISION = 2
UNIT = "eV/atom"
NO_PREDICTION = "no prediction"
SPLITS = ("train", "val", "test")
# ASSUME: what is learned from fewer than one training formula in ten says little of the table that was asked for.
LEAST_SHARE = 0.1


def train_composition_scorer(
    *,
    compositions: Path,
    generator: list[Path],
    settings: CompositionScorerSettings,
    checkpoints: Path,
    seed: int,
    precision: str,
    threads: int,
    device: str,
    devices: str,
    round: int,
    model: Path,
    metrics: Path,
    predictions: Path,
) -> None:
    """Learn formation energies from formulas, and predict the held-out ones once.

    Args:
        compositions: the table (schema ``compositions``); its splits are used.
        generator: the round's WGAN, if the encoding is to be what it learned from the same training split.
        settings: of the model; several members, or a spread of its own, say how uncertain it is.
        checkpoints: folder that survives interruptions.
        seed: of the campaign.
        precision: lightning-fabric's name.
        threads: CPU threads; results are equal to the bit at equal threads.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: how many, a number or ``auto``: all GPUs given to the job.
        round: number of this round.
        model: model file to write; `sluice score` takes it.
        metrics: CSV of the first member, one row an epoch.
        predictions: validation and test rows (schema ``composition_predictions``); rows of any split that the model
            cannot take are among its failures.

    Raises:
        SluiceError: if there is nothing or next to nothing to learn from, or no WGAN where the encoding is to be
            learned.
    """
    with Store(compositions, "compositions") as store:
        rows, content, campaign = store.rows(), store.content_sha256, str(store.attributes["campaign"])
    table = composition_table(rows)
    encoding = learned_encoding(settings, generator)
    bare = CompositionModel(settings=settings.model_dump(mode="json"), encoding=encoding)
    problems = bare.problems(table.compositions)
    usable = np.array([problem == "" for problem in problems])
    left_out = _leave_out(compositions, table, usable, problems, settings)
    unfit_ids, unfit_reasons = rows.candidate_id[~usable], [problem for problem in problems if problem]
    table, rows = table[np.flatnonzero(usable)], rows.select(usable)
    trained, _ = train_members(
        table,
        settings,
        seed=derive_seed(seed, round, "composition_scorer"),
        checkpoints=checkpoints,
        metrics=metrics,
        device=device,
        devices=devices,
        precision=precision,
        threads=threads,
        encoding=encoding,
    )
    held_out = table.split != b"train"
    found = trained.predict(table.compositions[np.flatnonzero(held_out)])
    rows, good = rows.select(held_out), np.isfinite(found.value)
    with StoreWriter(
        predictions,
        "composition_predictions",
        settings=settings,
        inputs=[compositions, *generator],
        campaign=campaign,
        round_number=round,
        revision=REVISION,
        with_crystals=False,
    ) as writer:
        writer.append_chunk(
            rows.select(good),
            predicted_formation_energy_ev_per_atom=found.value[good],
            standard_deviation_ev_per_atom=found.uncertainty[good],
        )
        reasons = [reason for reason in found.reasons if reason]
        writer.drop(rows.candidate_id[~good], NO_PREDICTION, kind="failed", detail=reasons)
        writer.drop(unfit_ids, NOT_ENCODED, kind="failed", detail=unfit_reasons)
    for name in (b"val", b"test"):
        chosen = good & (rows.columns["split"] == name)
        error = np.abs(found.value - rows.columns["formation_energy_ev_per_atom"])[chosen]
        text = f"mean absolute error {error.mean():.4f} {UNIT}" if len(error) else "no formulas"
        print(f"{name.decode()}: {len(error)} formulas, {text}")
    save_composition_model(
        model,
        trained,
        {
            "output": f"formation energy, {UNIT}",
            "training_sha256": content,
            "training_rows": len(table.rows("train")),
            "left_out_rows": left_out,
            "campaign": campaign,
            "round": round,
            "seed": seed,
            "revision": REVISION,
        },
    )


def _leave_out(
    path: Path,
    table: CompositionTable,
    usable: NDArray[np.bool_],
    problems: Sequence[str],
    settings: CompositionScorerSettings,
) -> dict[str, int]:
    """How many rows of each split the model cannot take; says so, and stops where too few are left to learn from."""
    counts = {name: int((~usable[table.rows(name)]).sum()) for name in SPLITS}
    total, training = sum(counts.values()), len(table.rows("train"))
    if total:
        parts = ", ".join(f"{name} {counts[name]}" for name in SPLITS)
        first = next(problem for problem in problems if problem)
        print(f"{total} of {len(table)} formulas cannot be encoded and are left out ({parts}), e.g. {first}")
    left = training - counts["train"]
    if left >= max(2, LEAST_SHARE * training):
        return counts
    said = f"{path}: {left} of {training} training formulas are left to learn from"
    if counts["train"] == 0:
        raise SluiceError(f"{said}; give more formulas, or a larger share of them for training")
    (cause, often), *_ = Counter(problems[row] for row in table.rows("train") if problems[row]).most_common(1)
    raise SluiceError(
        f"{said}; what {settings.model} (encoding {settings.encoding}) sees cannot hold the others: {cause} ({often}"
        " formulas); set compositions.scorer.model: roost, which takes every element, and leave"
        " compositions.scorer.encoding out, or take those formulas out of the data"
    )


if __name__ == "__main__":
    run_step(train_composition_scorer)
