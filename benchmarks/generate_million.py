"""Samples per CPU-second and peak memory of generate → geometry → symmetry → charge → duplicates, up to a million.

Usage: ``python benchmarks/generate_million.py [--model generator.ckpt] [--samples 20000 100000 1000000]``. Each step
runs as its own process, as in a campaign, in 4 batches; CPU time with start and imports, memory of the largest batch.
Needs the Materials Project's cubic ternaries (``sluice data list``): they are the known crystals, and without
``--model`` CubicGAN learns from them for a few epochs first, which is not counted. Goal: 3 000 samples per CPU-second
over all steps, below 2 GiB, memory that does not grow with their number.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from sluice.attempts import read_attempts
from sluice.config import SUPPORTED_ELEMENTS, Chemistry, GenerateSettings, GeneratorSettings, ScreenSettings
from sluice.store import Store, StoreWriter

BATCHES = 4
SEED = 2026
NOBLE = {"He", "Ne", "Ar", "Kr", "Xe"}
ELEMENTS = tuple(symbol for symbol in SUPPORTED_ELEMENTS if symbol not in NOBLE)
STEPS = ("generate_candidates", "check_geometry", "check_symmetry", "check_charge", "remove_duplicates")
Row = dict[str, str | int | float]


def run(attempts: Path, module: str, **flags: str | float | Path | list[Path]) -> None:
    """Run one step as the workflow would."""
    words = [sys.executable, "-m", f"sluice.{module}", "--attempts", str(attempts)]
    for name, value in flags.items():
        words.append("--" + name.replace("_", "-"))
        words += [str(v) for v in value] if isinstance(value, list) else [str(value)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def write_known(path: Path) -> None:
    """The Materials Project's cubic ternaries as a data set; nine of ten for training.

    In a process of its own: the peak memory of a process counts for those it starts, too.
    """
    from sluice.datasets.registry import require_data
    from sluice.experiments.cubicgan_data import read_cubic
    from sluice.models.orbits import build_crystals

    data, ids, _ = read_cubic(require_data("mp_structures"))
    n = len(ids)
    with StoreWriter(path, "dataset", campaign="generate_million") as writer:
        columns = {
            "prototype": [""] * n,
            "space_group": data.space_groups,
            "formation_energy_ev_per_atom": np.full(n, np.nan),
            "label_source": ["none"] * n,
            "split": ["val" if i % 10 == 0 else "train" for i in range(n)],
        }
        crystals = build_crystals(data.space_groups, data.points, data.elements, data.lengths)
        writer.append(ids, columns, crystals=crystals)


def train(folder: Path, known: Path, epochs: int) -> Path:
    """A generator of the default size."""
    training_set, model = folder / "training_set.h5", folder / "generator.ckpt"
    run(
        folder / "training.jsonl", "train.collect_training_set", dataset=known, validated=[], shortlists=[], round=1,
        training_set=training_set,
    )  # fmt: skip
    settings = GeneratorSettings(epochs=epochs)
    run(
        folder / "training.jsonl", "train.train_generator", training_set=training_set,
        settings=settings.model_dump_json(), checkpoints=folder / "checkpoints", seed=SEED, precision="32-true",
        threads=1, device="cpu", devices="1", round=1, decision=[], earlier=[], model=model,
        metrics=folder / "metrics.csv",
    )  # fmt: skip
    return model


def measure(model: Path, known: Path, samples: int, folder: Path) -> list[Row]:
    """Run the steps with so many samples."""
    attempts, screen = folder / "attempts.jsonl", ScreenSettings()
    settings, chemistry = GenerateSettings(candidates=samples, batches=BATCHES), Chemistry(elements=ELEMENTS)
    files: dict[str, list[Path]] = {step: [] for step in STEPS}
    for batch in range(BATCHES):
        drawn, near, found, neutral = (folder / f"{name}_{batch}.h5" for name in ("drawn", "near", "found", "neutral"))
        run(
            attempts, "generate.generate_candidates", model=model, decision=[], settings=settings.model_dump_json(),
            chemistry=chemistry.model_dump_json(), seed=SEED, round=1, batch=batch, device="cpu", candidates=drawn,
        )  # fmt: skip
        geometry, symmetry = screen.geometry.model_dump_json(), screen.symmetry.model_dump_json()
        run(attempts, "screen.check_geometry", candidates=drawn, settings=geometry, geometry=near)
        run(attempts, "screen.check_symmetry", candidates=near, settings=symmetry, symmetry=found)
        run(attempts, "screen.check_charge", candidates=found, settings=screen.charge.model_dump_json(), charge=neutral)
        for step, path in zip(STEPS, (drawn, near, found, neutral), strict=False):
            files[step].append(path)
    unique = folder / "unique.h5"
    run(
        attempts, "screen.remove_duplicates", candidates=files["check_charge"], known=known, earlier=[],
        settings=screen.duplicates.model_dump_json(), unique=unique,
    )  # fmt: skip
    files["remove_duplicates"].append(unique)
    rows = [summarize(samples, step, attempts, paths) for step, paths in files.items()]
    cpu, peak = sum(float(row["cpu_seconds"]) for row in rows), max(float(row["peak_memory_mb"]) for row in rows)
    total = {"samples": samples, "step": "all", "rows_out": rows[-1]["rows_out"], "cpu_seconds": round(cpu, 1)}
    return [*rows, {**total, "samples_per_cpu_second": round(samples / cpu), "peak_memory_mb": peak}]


def summarize(samples: int, step: str, attempts: Path, paths: list[Path]) -> Row:
    """One row of the table; the rate is of samples drawn, not of rows that reach the step."""
    mine = [attempt for attempt in read_attempts(attempts) if attempt.step == step]
    rows = 0
    for path in paths:
        with Store(path, verify=False) as store:
            rows += len(store)
    cpu = sum(attempt.cpu_seconds for attempt in mine)
    return {
        "samples": samples,
        "step": step,
        "rows_out": rows,
        "cpu_seconds": round(cpu, 1),
        "samples_per_cpu_second": round(samples / cpu),
        "peak_memory_mb": round(max(attempt.max_rss_mb for attempt in mine), 1),
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="generator.ckpt of a campaign or model.ckpt of the experiment")
    parser.add_argument("--epochs", type=int, default=20, help="of the training without --model")
    parser.add_argument("--samples", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--output", type=Path, help="CSV to write")
    parser.add_argument("--write-known", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_known:
        write_known(options.write_known)
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as shared:
        known = Path(shared) / "known.h5"
        subprocess.run([sys.executable, __file__, "--write-known", str(known)], check=True)
        model = options.model.resolve() if options.model else train(Path(shared), known, options.epochs)
        for samples in options.samples:
            with tempfile.TemporaryDirectory() as folder:
                measured = measure(model, known, samples, Path(folder))
            for row in measured:
                print(" | ".join(str(value) for value in row.values()), flush=True)
            rows += measured
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
