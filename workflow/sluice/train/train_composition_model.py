"""Train a model of compositions (ElemNet, Roost, a head on an encoding) on a CSV of formulas and numbers."""

from __future__ import annotations

import csv
import io
import math
import sys
from pathlib import Path

import numpy as np

from sluice.chemistry.composition_table import composition_table, read_table
from sluice.config_composition import CompositionDataSettings, CompositionModelSettings
from sluice.errors import BadDataError
from sluice.models.cgcnn_training import roc_auc
from sluice.models.composition import CompositionModel
from sluice.models.composition_training import learned_encoding, save_composition_model, train_members
from sluice.models.modelfile import write_atomically
from sluice.provenance import sha256_of_file
from sluice.step import run_step

REVISION = 1


def train_composition_model(
    *,
    data: Path,
    data_settings: CompositionDataSettings,
    settings: CompositionModelSettings,
    checkpoints: Path,
    seed: int,
    precision: str,
    threads: int,
    device: str,
    devices: str,
    model: Path,
    metrics: Path,
    predictions: Path,
    generator: Path | None = None,
) -> None:
    """Train on a random split by composition and predict the held-out rows once.

    Args:
        data: CSV with a column of formulas and one of numbers.
        data_settings: which columns, what becomes of duplicates, shares of the split.
        settings: of the model.
        checkpoints: folder that survives interruptions.
        seed: of split, weights and order.
        precision: lightning-fabric's name.
        threads: CPU threads; results are equal to the bit at equal threads.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: how many, a number or ``auto``: all GPUs given to the job.
        model: model file to write; `sluice score` takes it.
        metrics: CSV, one row an epoch.
        predictions: CSV of validation and test rows with target, prediction and uncertainty.
        generator: model file of a WGAN, if the encoding is to be what it learned.

    Raises:
        BadDataError: if the file cannot be read or holds too many bad rows.
        SluiceError: if there is no WGAN where the encoding is to be learned.
    """
    encoding = learned_encoding(settings, [generator] if generator is not None else [])
    reading = read_table(data, data_settings)
    table = composition_table(reading, data_settings, seed)
    print(
        f"{data}: {reading.rows} rows, {len(reading.bad)} bad, {reading.duplicates} duplicates merged,"
        f" {reading.outliers} outliers left out"
    )
    for row, reason in reading.bad[:20]:
        print(f"  row {row}: {reason}", file=sys.stderr)
    if settings.task == "classification" and set(np.unique(table.target)) - {0.0, 1.0}:
        raise BadDataError(f"{data}: {data_settings.target_column} holds more than the classes 0 and 1")
    bare = CompositionModel(settings=settings.model_dump(mode="json"), encoding=encoding)
    problems = bare.problems(table.compositions)
    usable = np.flatnonzero([problem == "" for problem in problems])
    if len(usable) < len(table):
        first = next(problem for problem in problems if problem)
        print(f"{len(table) - len(usable)} compositions are left out that cannot be encoded, e.g. {first}")
        if len(table) - len(usable) > data_settings.max_bad_fraction * len(table):
            raise BadDataError(f"{data}: {len(table) - len(usable)} of {len(table)} compositions: {first}")
        table = table[usable]
    trained, _ = train_members(
        table,
        settings,
        seed=seed,
        checkpoints=checkpoints,
        metrics=metrics,
        device=device,
        devices=devices,
        precision=precision,
        threads=threads,
        encoding=encoding,
    )
    rows = np.flatnonzero(table.split != b"train")
    found = trained.predict(table.compositions[rows])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["formula", "split", "target", "predicted", "uncertainty", "reason"])
    for k, formula in enumerate(table.compositions[rows].formulas()):
        numbers = [found.value[k], found.uncertainty[k]]
        split, target = table.split[rows[k]].decode(), f"{table.target[rows[k]]:.10g}"
        writer.writerow(
            [formula, split, target, *("" if math.isnan(x) else f"{x:.6g}" for x in numbers), found.reasons[k]]
        )
    write_atomically(predictions, text.getvalue().encode())
    for name in ("val", "test"):
        mine = (table.split[rows] == name.encode()) & np.isfinite(found.value)
        target = table.target[rows][mine]
        error = found.value[mine] - target
        said = (
            f"area under the ROC curve {roc_auc(target, found.value[mine]):.4f}"
            if settings.task == "classification"
            else f"mean absolute error {np.abs(error).mean() if len(error) else math.nan:.4f} {data_settings.unit}"
        )
        print(f"{name}: {len(target)} compositions, {said}")
    save_composition_model(
        model,
        trained,
        {
            "output": f"{data_settings.target_column} {data_settings.unit}".strip(),
            "training_sha256": sha256_of_file(data),
            "training_rows": len(table.rows("train")),
            "seed": seed,
            "revision": REVISION,
        },
    )


if __name__ == "__main__":
    run_step(train_composition_model)
