"""Folders that appear complete or not at all, and what every run's folder holds."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sluice.errors import SluiceError
from sluice.models.modelfile import write_atomically

METRICS_FILE = "metrics.json"
HISTORY_FILE = "history.csv"
MACHINE_FILE = "machine.json"
Metric = float | int | str | None | list[float]


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target`` to fill; gone afterwards."""
    folder = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(filled: Path, target: Path) -> None:
    """Put a filled folder in place of ``target``."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.replace(old)
    filled.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def write_metrics(folder: Path, metrics: Mapping[str, Metric]) -> None:
    """Write a run's numbers by name, a list where one job did several seeds; NaN is written as null."""
    plain = {k: [_finite(x) for x in v] if isinstance(v, list) else _finite(v) for k, v in metrics.items()}
    write_atomically(folder / METRICS_FILE, (json.dumps(plain, indent=1) + "\n").encode())


def _finite(value: float | int | str | None) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(folder: Path) -> dict[str, list[float]]:
    """A run's numbers, each as a list over its seeds; null is NaN, texts are left out.

    Raises:
        SluiceError: if the run has none.
    """
    try:
        values = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SluiceError(f"{folder / METRICS_FILE}: cannot be read ({error}); run the experiment again") from error
    lists = {k: v if isinstance(v, list) else [v] for k, v in values.items() if not isinstance(v, str)}
    return {k: [math.nan if x is None else float(x) for x in v] for k, v in lists.items()}


def write_history(folder: Path, rows: Sequence[Mapping[str, float | int]]) -> None:
    """Write a run's learning curve: one row a point, the first column the abscissa."""
    if not rows:
        return
    with (folder / HISTORY_FILE).open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
